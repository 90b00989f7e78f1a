"""docs/from-patroni.md: what it says of each key is so."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgregent.config.later import LATER
from pgregent.config.load import check_config
from pgregent.config.table import rows
from tests.config.test_effects import exists
from tests.config.test_load import MINIMAL

PAGE = Path(__file__).parents[2] / "docs" / "from-patroni.md"


@dataclass(frozen=True)
class Row:
    """One line of a table: `names` are keys, or variables."""

    names: tuple[str, ...]
    mark: str
    test: str


def page_rows() -> list[Row]:
    cells = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if "| `" in line]
    return [
        Row(tuple(re.findall("`([^`]+)`", names)), mark.strip(), test.strip())
        for names, mark, _, test in cells
    ]


ROWS = page_rows()
MARKS = {name: row.mark for row in ROWS for name in row.names if not name.isupper()}
REFUSED = [key for key, mark in MARKS.items() if mark == "refused"]
LATER_KEYS = {f"{section}.{key}".strip(".") for section, keys in LATER.items() for key in keys}


def test_every_key_is_in_the_page_once() -> None:
    names = [name for row in ROWS for name in row.names]
    assert sorted(names) == sorted(set(names))
    accepted = {row.key for row in rows()}
    assert {key for key, mark in MARKS.items() if mark != "refused"} == accepted
    assert set(REFUSED) >= LATER_KEYS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.names[0])
def test_the_mark_has_what_it_needs(row: Row) -> None:
    assert row.mark in ("works", "differs", "refused")
    if row.mark != "refused":
        assert exists(row.test), row.test


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_marked_as_refused_is_refused(key: str) -> None:
    """Whatever its value: its name is the mistake."""
    content = yaml.safe_load(MINIMAL)
    section, parts = content, key.split(".")
    for part in parts[:-1]:
        section = section.setdefault(part, {})
    section[parts[-1]] = "x"
    if parts[0] == "etcd3":
        del content["local"]
        section["host"] = "etcd1"
    assert key in {found.key for found in mistakes(content)}


def mistakes(content: dict[str, Any]) -> list[Any]:
    config, found = check_config(yaml.safe_dump(content))
    return [] if config is not None else list(found)
