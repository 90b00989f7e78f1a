"""The tables of docs/configuration.md, made from the schema: `python -m pgregent.config.table`."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pgregent.config.dynamic import Dcs
from pgregent.config.outage import outage_table, outages
from pgregent.config.schema import AgentConfig, Pgregent
from pgregent.config.section import section_in, spellings
from pgregent.config.types import Expecting


@dataclass(frozen=True, slots=True)
class Row:
    """One key that is accepted."""

    key: str
    aliases: tuple[str, ...]
    default: str
    values: str
    meaning: str


def rows(model: type[BaseModel] = AgentConfig, around: str = "") -> Iterator[Row]:
    """Every key of the schema, in its order."""
    for name, info in model.model_fields.items():
        names = spellings(name, info)
        key = f"{around}{names[0]}"
        section = section_in(info)
        if section is not None:
            yield from rows(section, f"{key}.")
            continue
        expecting = next((m for m in info.metadata if isinstance(m, Expecting)), None)
        yield Row(
            key=key,
            aliases=names[1:],
            default=_default(info),
            values=expecting.expects if expecting else "",
            meaning=info.description or "",
        )


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    match info.default:
        case bool() as flag:
            return "true" if flag else "false"
        case None | () | Mapping():
            return ""
        case float() as number:
            return f"{number:g}"
        case value:
            return str(value)


def key_table() -> str:
    """The keys as a table in Markdown."""
    lines = ["| key | default | values | meaning |", "|---|---|---|---|"]
    for row in rows():
        names = " or ".join(f"`{name}`" for name in (row.key, *row.aliases))
        lines.append(f"| {names} | {row.default} | {row.values} | {row.meaning} |")
    return "\n".join(lines)


def tables() -> Mapping[str, str]:
    """Each generated part by the name that its two marks in the page have."""
    return {"keys": key_table(), "outages": outage_table(outages(Pgregent(), Dcs()))}


def filled(page: str) -> str:
    """The page with each part between its marks made anew. Raises ValueError without the marks."""
    for name, text in tables().items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        head, rest = page[: page.index(begin) + len(begin)], page[page.index(end) :]
        page = head + text + rest
    return page


def _main(path: Path) -> None:
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
