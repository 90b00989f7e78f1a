"""`pgregent config check`."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pgregent.cli import main as program

SEED = Path(__file__).parents[1] / "seed"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("PATRONI_", "PGREGENT_"))]:
        monkeypatch.delenv(name)


def check(*files: Path) -> Result:
    return CliRunner().invoke(program.main, ["config", "check", *map(str, files)])


def variant(tmp_path: Path, old: str, new: str) -> Path:
    text = (SEED / "postgres0.yml").read_text()
    assert old in text
    path = tmp_path / "agent.yml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_the_seeds_files_are_fine() -> None:
    done = check(SEED / "postgres0.yml", SEED / "postgres1.yml")
    assert done.exit_code == 0, done.output
    assert f"{SEED / 'postgres0.yml'}: member postgresql0 of my_cluster\n" in done.stdout
    assert f"{SEED / 'postgres1.yml'}: member postgresql1 of my_cluster\n" in done.stdout
    assert "ZooKeeper zoo:2181, keys under /service/my_cluster" in done.stdout
    assert done.stdout.count("worst-case write outage") == 2
    assert done.stdout.count("  warning: ") == 10
    assert "rep-pass" not in done.output


def test_the_outage_is_that_of_the_files_settings(tmp_path: Path) -> None:
    file = variant(tmp_path, "tags:", "pgregent: {suspect_after: 4}\ntags:")
    (line,) = [text for text in check(file).stdout.splitlines() if "cut off (silence)" in text]
    assert line.split("  ")[-2:] == [
        "about 4.5 s",
        "the node of the primary frozen or cut off (silence): suspect_after 4 s + takeover",
    ]


def test_all_mistakes_of_all_files_are_said(tmp_path: Path) -> None:
    file = variant(tmp_path, "data_dir: /var", "data_dri: /var")
    missing = tmp_path / "absent.yml"
    done = check(file, missing, SEED / "postgres1.yml")
    assert done.exit_code == 2
    assert "member postgresql1" in done.stdout
    assert f"{file}:39: postgresql.data_dri: unknown key; did you mean" in done.stderr
    assert f"{file}:36: postgresql.data_dir: missing, expected the data directory" in done.stderr
    assert f"cannot read the configuration {missing}" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("synchronous_mode: true", "synchronous_mode: off", "asynchronous replication is not"),
        ("wal_level: replica", "fsync: off", "fsync: found off"),
    ],
)
def test_what_an_agent_would_refuse_is_refused(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    done = check(variant(tmp_path, old, new))
    assert done.exit_code == 2
    assert words in done.stderr


def test_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRONI_NAME", "n9")
    monkeypatch.setenv("PATRONI_SUPERUSER_PASSWORD", "s3cret")
    done = check(SEED / "postgres0.yml")
    assert "member n9 of my_cluster" in done.stdout
    assert "environment PATRONI_NAME, PATRONI_SUPERUSER_PASSWORD" in done.stdout
    assert "s3cret" not in done.output
    monkeypatch.setenv("PATRONI_RESTAPI_LISTEN", "x")
    done = check(SEED / "postgres0.yml")
    assert done.exit_code == 2
    assert "PATRONI_RESTAPI_LISTEN (restapi.listen)" in done.stderr
