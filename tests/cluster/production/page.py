"""docs/production.md, cut into its blocks. What a block is stands in a comment above it:

<!-- file PATH -->      a file of every host
<!-- on WHERE -->       commands that are run there
<!-- application -->    what an application is given
<!-- not run: WHY -->   commands that a test leaves out
<!-- shows -->          what a command says
"""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

_HEADING = re.compile(r"## (\d*)")
_MARKER = re.compile(r"<!-- (file|on|application|not run|shows)(?::? (.+))? -->")
RUN = ("file", "on", "application")


@dataclass(frozen=True, slots=True)
class Block:
    """An indented block; `line` is its first one, `section` the number of its heading or ""."""

    section: str
    line: int
    kind: str
    where: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return all blocks of the page. ValueError names a line of one that nothing stands above."""
    lines = page.read_text().splitlines()
    found: list[Block] = []
    section, above, number = "", "", 0
    while number < len(lines):
        line = lines[number]
        if heading := _HEADING.match(line):
            section = heading[1]
        if line.startswith("    ") and (_MARKER.fullmatch(above) or not above):
            first, number = number, _end_of_block(lines, number)
            marker = _MARKER.fullmatch(above)
            if marker is None:
                raise ValueError(f"{page}, line {first + 1}: nothing above it says what it is")
            text = textwrap.dedent("\n".join(lines[first:number])).strip() + "\n"
            found.append(Block(section, first + 1, marker[1], marker[2] or "", text))
            above = ""
            continue
        above = line
        number += 1
    return found


def _end_of_block(lines: list[str], number: int) -> int:
    while number < len(lines) and (lines[number].startswith("    ") or not lines[number]):
        number += 1
    return number
