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

_HEADING = re.compile(r"(?m)^## (\d*)")
_BLOCK = re.compile(r"(?m)^(?P<above>.*)\n(?P<text> {4}.*(?:\n+ {4}.*)*)")
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
    text = page.read_text()
    found: list[Block] = []
    for block in _BLOCK.finditer(text):
        above = block["above"]
        if above and not above.startswith("<!--"):
            continue  # What is indented below a line of text goes on with it.
        line = text.count("\n", 0, block.start("text")) + 1
        marker = _MARKER.fullmatch(above)
        if marker is None:
            raise ValueError(f"{page}, line {line}: nothing above it says what it is")
        headings = _HEADING.findall(text, 0, block.start())
        commands = textwrap.dedent(block["text"]) + "\n"
        found.append(Block(headings[-1], line, marker[1], marker[2] or "", commands))
    return found
