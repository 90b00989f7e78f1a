"""The keys `slots` and `ignore_slots`."""

from typing import Any

import pytest

from pgregent.config.dynamic import document
from pgregent.config.load import parse_dynamic
from pgregent.config.slots import ANY, ignored_names
from pgregent.core.errors import Refused


def test_they_go_through_the_dcs_as_they_are() -> None:
    text = """{"permanent_slots": {"barman": {"type": "physical"}, "other": {}},
        "ignore_slots": [{"name": "theirs", "type": "physical"}]}"""
    dcs = parse_dynamic(text, "the DCS").dcs
    assert list(dcs.slots) == ["barman", "other"]
    assert parse_dynamic(document(dcs), "the DCS").dcs == dcs


@pytest.mark.parametrize(
    ("ignored", "names"),
    [
        ([], set()),
        ([{"name": "a"}, {"name": "b", "type": "physical"}], {"a", "b"}),
        ([{"type": "physical"}], {ANY}),
        ([{"type": "logical"}, {"name": "a", "plugin": "p"}, {"database": "d"}], set()),
    ],
)
def test_which_physical_slots_are_ignored(ignored: list[dict[str, str]], names: set[str]) -> None:
    assert ignored_names(ignored) == names


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"slots": []}', "expected names of physical slots"),
        ('{"slots": {"A": {}}}', "a name has 1 to 63 of a-z"),
        ('{"slots": {"a": {"type": "logical"}}}', "logical ones are not supported yet"),
        ('{"slots": {"a": {"type": "physical", "plugin": "p"}}}', "logical ones are not"),
        ('{"slots": {"a": 5}}', "expected names of physical slots"),
        ('{"ignore_slots": {"name": "a"}}', "expected a list of what such slots have"),
        ('{"ignore_slots": [{"nam": "a"}]}', "of name, type, database, plugin"),
        ('{"ignore_slots": [{}]}', "of name, type, database, plugin"),
        ('{"ignore_slots": [{"type": "other"}]}', "of name, type, database, plugin"),
    ],
)
def test_mistakes(content: Any, words: str) -> None:
    with pytest.raises(Refused, match=words):
        parse_dynamic(content, "the DCS")
