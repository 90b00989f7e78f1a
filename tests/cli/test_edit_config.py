"""`pgregent edit-config`: what it makes of KEY=VALUE and of files, before any agent is asked."""

import io
from pathlib import Path
from typing import Any

import pytest

from pgregent.cli.edited_config import difference, parse_mapping, read_mapping, with_settings
from pgregent.core.errors import Refused

STORED: dict[str, Any] = {
    "ttl": 30,
    "postgresql": {"use_slots": True, "parameters": {"work_mem": "8MB", "pg_stat.max": 10}},
}


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("ttl=20", {**STORED, "ttl": 20}),
        ("ttl=null", {"postgresql": STORED["postgresql"]}),
        ("ttl=", {"postgresql": STORED["postgresql"]}),
        ("loop_wait=null", STORED),
        ("a.b=null", STORED),
        ("a.b.c=[1, x]", {**STORED, "a": {"b": {"c": [1, "x"]}}}),
        ("ttl.unit=s", {**STORED, "ttl": {"unit": "s"}}),
        ("postgresql={use_slots: no}", {"ttl": 30, "postgresql": {"use_slots": False}}),
        ("postgresql=null", {"ttl": 30}),
        ("name=a=b", {**STORED, "name": "a=b"}),
    ],
)
def test_set(pair: str, expected: Any):
    before = str(STORED)
    assert with_settings(STORED, [pair]) == expected
    assert str(STORED) == before


@pytest.mark.parametrize(
    ("pair", "parameters"),
    [
        ("work_mem=16MB", {"work_mem": "16MB", "pg_stat.max": 10}),
        ("pg_stat.max=20", {"work_mem": "8MB", "pg_stat.max": 20}),
        ("pg_stat.max=null", {"work_mem": "8MB"}),
        ("a.b.c='x,y'", {"work_mem": "8MB", "pg_stat.max": 10, "a.b.c": "x,y"}),
    ],
)
def test_the_names_of_parameters_have_dots(pair: str, parameters: Any):
    found = with_settings(STORED, [f"postgresql.parameters.{pair}"])["postgresql"]
    assert found == {"use_slots": True, "parameters": parameters}


def test_what_is_empty_then_is_removed():
    pairs = [f"postgresql.parameters.{name}=null" for name in ("work_mem", "pg_stat.max")]
    assert with_settings(STORED, pairs) == {"ttl": 30, "postgresql": {"use_slots": True}}


@pytest.mark.parametrize("pair", ["ttl", "=20", "a..b=1", ".a=1", "", "ttl=[1", "ttl=2024-01-01"])
def test_what_is_no_setting(pair: str):
    with pytest.raises(Refused, match=r"expected|put it in quotes") as refused:
        with_settings(STORED, [pair])
    assert pair.partition("=")[0] in str(refused.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ttl: [", "f.yml:1: not valid YAML"),
        ("- ttl", "f.yml:1: found a list, expected a mapping of sections"),
        ("", "f.yml: the file is empty"),
        ("ttl: 1\nttl: 2", "f.yml:2: ttl: given twice"),
        ("ttl: 2024-01-01", "f.yml: found a date or another value that JSON does not have"),
        ("ttl: .nan", "f.yml: found a date or another value that JSON does not have"),
        ("a: &a [*a]", "f.yml: "),
    ],
)
def test_a_text_that_is_not_right(text: str, sentence: str):
    with pytest.raises(Refused) as refused:
        parse_mapping(text, "f.yml")
    assert str(refused.value).startswith(sentence)


def test_files_and_standard_input(place: Path, monkeypatch: pytest.MonkeyPatch):
    file = place / "change.yml"
    file.write_text("postgresql: {parameters: {work_mem: null}}")
    assert read_mapping(str(file)) == {"postgresql": {"parameters": {"work_mem": None}}}
    monkeypatch.setattr("sys.stdin", io.StringIO("ttl: 20"))
    assert read_mapping("-") == {"ttl": 20}
    file.write_bytes(b"\xff")
    for wrong in (file, place / "none.yml", place):
        with pytest.raises(Refused, match=f"{wrong}: cannot read it"):
            read_mapping(str(wrong))


def test_what_changes_is_shown_as_a_diff():
    shown = difference(STORED, with_settings(STORED, ["ttl=20"])).splitlines()
    assert ("-ttl: 30" in shown, "+ttl: 20" in shown) == (True, True)
    assert not [line for line in shown if line.startswith(("-  ", "+  "))]
