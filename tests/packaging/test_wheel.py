"""The wheel holds all of the package, and runs where nothing but its dependencies is installed."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BUILD_S = 60.0
_INSTALL_S = 120.0
_RUN_S = 20.0

_IMPORT_ALL = """
import importlib, pkgutil, pgregent
for found in pkgutil.walk_packages(pgregent.__path__, "pgregent."):
    importlib.import_module(found.name)
print(pgregent.__file__)
"""


def run(*command: str | Path, timeout: float = _RUN_S) -> subprocess.CompletedProcess[str]:
    """Run a command that knows nothing of this checkout."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PGREGENT_"))}
    return subprocess.run(
        [*map(str, command)],
        cwd="/",
        env=kept,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def succeed(*command: str | Path, timeout: float = _RUN_S) -> str:
    done = run(*command, timeout=timeout)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Built from a copy: setuptools would take up what an older build left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignored)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder)
    succeed(*pip, source, timeout=_BUILD_S)
    [built] = folder.glob("*.whl")
    yield built
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def venv(wheel: Path) -> Path:
    """An environment with the wheel and what it asks for; the fixture `wheel` removes it."""
    folder = wheel.parent / "venv"
    succeed(sys.executable, "-m", "venv", "--without-pip", folder)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install")
    succeed(*pip, "--quiet", "--no-compile", wheel, timeout=_INSTALL_S)
    return folder


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    source = ROOT / "src"
    files = (path for path in (source / "pgregent").rglob("*") if path.is_file())
    expected = {str(f.relative_to(source)) for f in files if "__pycache__" not in f.parts}
    found = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("pgregent/")}
    assert found == expected
    assert "pgregent/py.typed" in found


def test_the_command_runs(venv: Path) -> None:
    command = venv / "bin" / "pgregent"
    assert succeed(command, "--version").startswith("pgregent, version ")
    text = succeed(command, "--help")
    names = [line.split()[0] for line in text.partition("Commands:\n")[2].splitlines() if line]
    assert {"agent", "haproxy", "list", "up"} <= set(names), text
    for name in names:
        assert "Usage: pgregent" in succeed(command, name, "--help")


def test_every_module_finds_what_it_imports(venv: Path) -> None:
    place = succeed(venv / "bin" / "python", "-I", "-c", _IMPORT_ALL)
    assert place.startswith(str(venv)), "it has to be the installed one"


def test_a_file_is_checked(venv: Path) -> None:
    command = venv / "bin" / "pgregent"
    text = succeed(command, "config", "check", ROOT / "deploy/compose/postgres0.yml")
    assert "member postgresql0 of my_cluster" in text


def test_the_guard_runs_as_a_script(venv: Path) -> None:
    """Agents start it by its path, without the site's packages."""
    [script] = venv.glob("lib/python*/site-packages/pgregent/adapters/postgres/guard.py")
    done = run(venv / "bin" / "python", "-I", "-S", script)
    assert done.returncode == 2
    assert "guard: found no arguments" in done.stderr
