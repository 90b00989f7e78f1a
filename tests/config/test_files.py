"""A directory of files as the configuration."""

import os
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from pgregent.cli import main as program
from pgregent.config.load import load, load_config
from pgregent.core.errors import Refused
from tests.config.test_load import MINIMAL


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "10-base.yml").write_text(MINIMAL)
    return tmp_path


def test_files_are_laid_over_each_other_in_the_order_of_their_names(directory: Path) -> None:
    tags = "tags: {rack: 1, nosync: true}\n"
    (directory / "05-first.yaml").write_text(f"{tags}name: n5\nlog: {{level: debug}}\n")
    (directory / "20-more.yml").write_text(
        "tags: {rack: 2, nosync: }\npostgresql: {pg_hba: [local all all trust]}\n"
    )
    (directory / "30-not-read.yml.bak").write_text("scope: other\n")
    (directory / "40-folder.yml").mkdir()
    config = load_config(directory)
    assert (config.scope, config.name, config.log.level) == ("demo", "n1", "debug")
    assert config.tags.all == {"rack": 2}
    assert config.postgresql.pg_hba == ("local all all trust",)
    assert config.postgresql.listen.port == 5432


def test_a_mistake_names_the_file_that_it_is_in(directory: Path) -> None:
    (directory / "20-more.yml").write_text("\nname: 5\npostgresql: {data_dri: /x}\n")
    (directory / "30-last.yml").write_text("postgresql:\n  listen: '0'\ntags: {a: 1, a: 2}\n")
    (directory / "40-empty.yml").write_text("")
    with pytest.raises(Refused) as refused:
        load(directory, {"PATRONI_LOG_LEVEL": "loud"})
    lines = str(refused.value).splitlines()
    assert [line.partition(": ")[0].removeprefix(f"{directory}/") for line in lines] == [
        f"6 mistakes in {directory}",
        "PATRONI_LOG_LEVEL (log.level)",
        "20-more.yml:2",
        "20-more.yml:3",
        "30-last.yml:2",
        "30-last.yml:3",
        "40-empty.yml",
    ]


def test_a_warning_names_its_file(directory: Path) -> None:
    (directory / "20-more.yml").write_text("bootstrap: {pg_hba: [host all all all md5]}\n")
    (warning,) = load(directory, {}).warnings
    assert warning.startswith(f"{directory}/20-more.yml:1: bootstrap.pg_hba.0: md5 works")


def test_config_check_reads_a_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("PATRONI_", "PGREGENT_"))]:
        monkeypatch.delenv(name)
    (directory / "20-dcs.yml").write_text(
        yaml.safe_dump({"bootstrap": {"dcs": {"synchronous_mode": True}}})
    )
    found = CliRunner().invoke(program.main, ["config", "check", str(directory)])
    assert found.exit_code == 0, found.output
    assert f"{directory}: member n1 of demo" in found.output
