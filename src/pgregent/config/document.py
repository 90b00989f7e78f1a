"""A YAML text as plain values, and the line in which each key stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml

_DEPTH_MAX = 30

T = TypeVar("T")
Keys = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say about a configuration.

    `line` counts from 1; 0 means no particular line. `variable` is the environment variable that
    the value came from, "" for the file. `file` is the one of several that it is in.
    """

    line: int
    key: str
    text: str
    variable: str = ""
    file: str = ""

    def worded(self, where: str) -> str:
        """One line; `where` is the name of what was read."""
        if self.variable:
            of = f" ({self.key})" if self.key else ""
            return f"{self.variable}{of}: {self.text}"
        where = self.file or where
        place = f"{where}:{self.line}" if self.line else where
        return f"{place}: {self.key}: {self.text}" if self.key else f"{place}: {self.text}"


@dataclass(slots=True)
class Document:
    """What was read. `variables` says which values come from the environment, and `files` which
    file of several a line is in."""

    value: Any = None
    lines: dict[Keys, int] = field(default_factory=dict[Keys, int])
    files: dict[Keys, str] = field(default_factory=dict[Keys, str])
    mistakes: list[Finding] = field(default_factory=list[Finding])
    variables: dict[Keys, str] = field(default_factory=dict[Keys, str])

    def finding(self, keys: Keys, text: str) -> Finding:
        """A finding at the line, or the variable, of the key or of the section around it."""
        if variable := _nearest_around(self.variables, keys):
            return Finding(0, dotted(keys), text, variable)
        line, file = _nearest_around(self.lines, keys), _nearest_around(self.files, keys)
        return Finding(line or 0, dotted(keys), text, file=file or "")

    def at(self, keys: Keys) -> Any:
        """The value there, or None."""
        value = self.value
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None  # pyright: ignore
        return value  # pyright: ignore[reportUnknownVariableType]


def _nearest_around(known: Mapping[Keys, T], keys: Keys) -> T | None:
    while keys and keys not in known:
        keys = keys[:-1]
    return known.get(keys)


def dotted(keys: Keys) -> str:
    """The key as it is written in messages."""
    return ".".join(str(key) for key in keys)


def parse_yaml(text: str) -> Document:
    """Read the text; what is wrong with it is among the mistakes."""
    document = Document()
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if node is None:
            document.mistakes.append(Finding(0, "", "the file is empty"))
            return document
        _note_lines(document, node, ())  # pyright: ignore[reportUnknownArgumentType]
        document.value = loader.construct_document(node)  # pyright: ignore
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        document.mistakes.append(Finding(line, "", f"not valid YAML: {error.problem}"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        document.mistakes.append(Finding(0, "", f"not valid YAML: {reason}"))
    finally:
        loader.dispose()  # pyright: ignore[reportUnknownMemberType]
    if not document.mistakes and not isinstance(document.value, dict):
        kind = "a list" if isinstance(document.value, list) else "a single value"
        text = f"found {kind}, expected a mapping of sections"
        document.mistakes.append(Finding(1, "", text))
    return document


def _note_lines(document: Document, node: yaml.Node, path: Keys) -> None:
    if len(path) > _DEPTH_MAX:
        raise RecursionError
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            document.lines[(*path, i)] = item.start_mark.line + 1
            _note_lines(document, item, (*path, i))
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in seen and name != "<<":
            text = f"given twice, first in line {seen[name]}"
            document.mistakes.append(Finding(line, dotted((*path, name)), text))
        seen[name] = line
        document.lines[(*path, name)] = line
        _note_lines(document, value, (*path, name))
