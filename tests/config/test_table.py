"""docs/configuration.md says what the schema says."""

from pathlib import Path

import pytest

from pgregent.config.table import filled, rows, tables

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_has_the_schemas_tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "run: python -m pgregent.config.table docs/configuration.md"


def test_every_key_is_described_and_named_once() -> None:
    found = list(rows())
    assert [row.key for row in found if not row.meaning] == []
    names = [name for row in found for name in (row.key, *row.aliases)]
    assert len(names) == len(set(names))


def test_the_tables_take_the_place_of_what_is_between_their_marks() -> None:
    marked = {name: f"<!-- {name} -->\nSTALE\n<!-- end of {name} -->\n" for name in tables()}
    page = "a\n" + "b\n".join(marked.values())
    found = filled(page)
    assert all(text in found for text in tables().values())
    assert "STALE" not in found
    with pytest.raises(ValueError, match="substring"):
        filled("no marks")
