"""pg_basebackup's options: which are let through, and what becomes of them."""

import json
from typing import Any

import pytest
import yaml

from pgregent.config.dynamic import document
from pgregent.config.load import check_config, parse_dynamic
from tests.config.test_load import MINIMAL


def options(given: Any, common: Any = None) -> tuple[str, ...] | str:
    """The arguments, or the mistake."""
    content = yaml.safe_load(MINIMAL)
    content["postgresql"]["basebackup"] = given
    content["bootstrap"] = {"dcs": {"postgresql": {"basebackup": common}}}
    config, found = check_config(yaml.safe_dump(content))
    return config.basebackup(config.bootstrap.dcs) if config is not None else found[0].text


def test_a_list_and_a_mapping_say_the_same() -> None:
    expected = ("--max-rate=100M", "--no-manifest")
    assert options([{"max-rate": "100M"}, "no-manifest"]) == expected
    assert options({"max-rate": "100M", "no-manifest": None}) == expected
    assert options(None, ["progress"]) == ("--progress",)
    assert options(["verbose"], ["progress"]) == ("--verbose",)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["pgdata"], "and of them only manifest-force-encode"),
        ([{"pgdata": "/etc"}], "with a value checkpoint"),
        ([{"wal-method": "none"}], "with a value"),
        ([{"wal": "none"}], "with a value"),
        ({"format": "tar"}, "with a value"),
        (["no-sync"], "with a value"),
        ([{"waldir": "/wal"}], "with a value"),
        (["label"], "with a value"),
        ([{"label": "a\nb"}], "one line"),
        ([{"label": "a", "max-rate": "1M"}], "with a value"),
        ([{"compress": "gzip"}], "server-gzip"),
        ("no-manifest", "a list or a mapping"),
        ([5], "with a value"),
    ],
)
def test_what_would_make_another_copy_is_refused(given: Any, words: str) -> None:
    assert words in options(given)


def test_the_dcs_has_them_in_patronis_shape() -> None:
    text = json.dumps({"postgresql": {"basebackup": ["verbose", {"max-rate": "100M"}]}})
    stored = document(parse_dynamic(text, "the file").dcs)
    assert json.loads(stored) == json.loads(text)
