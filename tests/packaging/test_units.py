"""systemd's own judgement of deploy/systemd."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
COMMAND = "/opt/pgregent/bin/pgregent"


def verify(unit: Path) -> str:
    """What systemd says of a unit; "" where nothing is wrong with it."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    done = subprocess.run(
        # A unit that is named in After= need not be installed, and no manual page either.
        [tool, "verify", "--man=no", "--recursive-errors=no", str(unit)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    said = done.stdout + done.stderr
    assert not (done.returncode and not said), f"exit code {done.returncode}"
    return said


def installed(unit: Path, folder: Path) -> Path:
    """A copy whose command is one that there is."""
    text = unit.read_text()
    assert f"ExecStart={COMMAND} " in text
    copy = folder / unit.name
    copy.write_text(text.replace(COMMAND, "/bin/true"))
    return copy


@pytest.mark.parametrize("name", sorted(path.name for path in UNITS.glob("*.service")))
def test_a_unit_is_verified(name: str, tmp_path: Path) -> None:
    assert verify(installed(UNITS / name, tmp_path)) == ""


def test_a_mistake_in_a_unit_is_found(tmp_path: Path) -> None:
    unit = installed(UNITS / "pgregent.service", tmp_path)
    unit.write_text(unit.read_text().replace("KillMode=process", "KillModus=process"))
    assert "KillModus" in verify(unit)


def test_an_override_is_verified(tmp_path: Path) -> None:
    [override] = UNITS.glob("haproxy.service.d/*.conf")
    unit = tmp_path / "stand-in.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    (tmp_path / "stand-in.service.d").mkdir()
    shutil.copy(override, tmp_path / "stand-in.service.d")
    assert verify(unit) == ""
