"""bootstrap.initdb: what is passed on, and what pgregent has to say itself."""

import pytest

from pgregent.config.load import check_config
from tests.config.test_load import MINIMAL


def options(text: str) -> tuple[tuple[str, ...] | None, str]:
    config, found = check_config(MINIMAL + f"bootstrap: {{initdb: {text}}}\n")
    return config and config.bootstrap.initdb, "".join(finding.text for finding in found)


def test_options_are_passed_on() -> None:
    given = "[encoding: LATIN1, locale: C, data-checksums, no-locale, wal-segsize: 16]"
    expected = ["--encoding=LATIN1", "--locale=C", "--data-checksums", "--no-locale"]
    assert options(given) == ((*expected, "--wal-segsize=16"), "")


@pytest.mark.parametrize("given", ["pgdata: /x", "username: u", "user: u", "auth-l: trust", "no-c"])
def test_what_pgregent_sets_itself_is_refused_also_abbreviated(given: str) -> None:
    config, why = options(f"[{given}]")
    assert config is None
    assert "which pgregent sets itself" in why


@pytest.mark.parametrize("given", ["wal-segsize: 64", "wal-segsize", "wal-seg: 1"])
def test_another_segment_size_is_refused(given: str) -> None:
    """The timeline of a vote is read off the segments' names."""
    config, why = options(f"[{given}]")
    assert config is None
    assert "only 16 MB is supported" in why
