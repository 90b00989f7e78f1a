"""Read an agent's YAML file: a typed configuration, or every mistake in it at once."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pgregent.config.schema import DCS_LATER, LATER, AgentConfig, key_names
from pgregent.config.suggest import did_you_mean
from pgregent.core.errors import Refused

_FILE_BYTES_MAX = 1 << 20
_DEPTH_MAX = 30
_SHOWN_MAX = 60
_SECRET = re.compile(r"password|secret|token|authentication", re.IGNORECASE)

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong. `line` counts from 1; 0 means no particular line."""

    line: int
    key: str
    text: str


@dataclass(slots=True)
class _Document:
    value: object = None
    lines: dict[Path_, int] = field(default_factory=dict[Path_, int])
    mistakes: list[Mistake] = field(default_factory=list[Mistake])


def load_config(path: Path) -> AgentConfig:
    """Read and check the file. Raises Refused with one line per mistake."""
    config, mistakes = check_config(_read(path))
    if config is not None:
        return config
    lines = [_worded(path, m) for m in mistakes]
    if len(lines) > 1:
        lines.insert(0, f"{len(lines)} mistakes in {path}")
    raise Refused("\n".join(lines))


def check_config(text: str) -> tuple[AgentConfig | None, tuple[Mistake, ...]]:
    """Check the YAML text: the configuration, or None and the mistakes in order of their lines."""
    document = _parse(text)
    value, config = document.value, None
    if not document.mistakes and not isinstance(value, dict):
        text = f"found {_shown((), value)}, expected a mapping of sections"
        document.mistakes.append(Mistake(1, "", text))
    if isinstance(value, dict):
        try:
            config = AgentConfig.model_validate(value)
        except ValidationError as error:
            document.mistakes += [m for e in error.errors() if (m := _mistake(document, e))]
    if document.mistakes:
        return None, tuple(sorted(document.mistakes, key=lambda m: m.line))
    return config, ()


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _FILE_BYTES_MAX:
            raise Refused(f"{path} is larger than 1 MB: is it a configuration file?")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise Refused(f"cannot read the configuration {path}: {error.strerror}") from None


def _worded(path: Path, mistake: Mistake) -> str:
    where = f"{path}:{mistake.line}" if mistake.line else str(path)
    return f"{where}: {mistake.key}: {mistake.text}" if mistake.key else f"{where}: {mistake.text}"


def _parse(text: str) -> _Document:
    document = _Document()
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if node is None:
            document.mistakes.append(Mistake(0, "", "the file is empty"))
            return document
        _note_lines(document, node, ())  # pyright: ignore[reportUnknownArgumentType]
        document.value = loader.construct_document(node)  # pyright: ignore
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        document.mistakes.append(Mistake(line, "", f"not valid YAML: {error.problem}"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        document.mistakes.append(Mistake(0, "", f"not valid YAML: {reason}"))
    finally:
        loader.dispose()  # pyright: ignore[reportUnknownMemberType]
    return document


def _note_lines(document: _Document, node: yaml.Node, path: Path_) -> None:
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
            document.mistakes.append(Mistake(line, _dotted((*path, name)), text))
        seen[name] = line
        document.lines[(*path, name)] = line
        _note_lines(document, value, (*path, name))


def _mistake(document: _Document, error: Any) -> Mistake | None:
    """Word one of pydantic's errors, or None when another one says it already."""
    loc: Path_ = tuple(part for part in error["loc"] if part != "[key]")
    context: dict[str, Any] = error.get("ctx", {})
    match error["type"]:
        case "across_keys":
            loc = (*loc, context["key"])
            text = f"expected {context['expected']}"
            if loc in document.lines:
                text = f"found {_shown(loc, _value_at(document.value, loc))}, {text}"
        case "missing":
            if loc == ("local",) and any((name,) in document.lines for name in DCS_LATER):
                return None
            text = f"missing, expected {_description(loc)}"
        case "extra_forbidden":
            text = _unknown_key(loc)
        case "value_error":
            text = f"found {_shown(loc, error['input'])}, expected {context['error']}"
        case "model_type" | "dict_type" | "mapping_type":
            text = f"found {_shown(loc, error['input'])}, expected a mapping of keys"
        case "invalid_key":
            loc = loc[:-1]
            text = f"the key {_shown(loc, error['input'])} is not text: put it in quotes"
        case "string_type":
            text = f"found {_shown(loc, error['input'])}, expected a name (put it in quotes)"
        case _:
            text = f"found {_shown(loc, error['input'])}: {error['msg']}"
    return Mistake(_line(document.lines, loc), _dotted(loc), text)


def _unknown_key(loc: Path_) -> str:
    section, name = _dotted(loc[:-1]), str(loc[-1])
    if name in LATER.get(section, frozenset()):
        instead = "; so far the DCS is `local: {path: …}`" if name in DCS_LATER else ""
        return f"not supported yet (Patroni's){instead}"
    model = _section_at(loc[:-1])
    known = set(key_names(model)) if model else set[str]()
    return f"unknown key{did_you_mean(name, known | LATER.get(section, frozenset()))}"


def _section_at(loc: Path_) -> type[BaseModel] | None:
    model: type[BaseModel] | None = AgentConfig
    for part in loc:
        model = key_names(model).get(str(part)) if model else None
    return model


def _description(loc: Path_) -> str:
    model = _section_at(loc[:-1])
    info = model.model_fields.get(str(loc[-1])) if model else None
    return (info.description if info else None) or "a value"


def _value_at(value: Any, loc: Path_) -> Any:
    for part in loc:
        value = value.get(part) if isinstance(value, dict) else None  # pyright: ignore
    return value  # pyright: ignore[reportUnknownVariableType]


def _line(lines: Mapping[Path_, int], loc: Path_) -> int:
    """The line of the key, or of the nearest section around it."""
    while loc and loc not in lines:
        loc = loc[:-1]
    return lines.get(loc, 0)


def _dotted(loc: Path_) -> str:
    return ".".join(str(part) for part in loc)


def _shown(loc: Path_, value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _ if any(_SECRET.search(str(part)) for part in loc):
            return "a value that is not shown"
        case str():
            short = value if len(value) <= _SHOWN_MAX else value[:_SHOWN_MAX] + "…"
            return json.dumps(short, ensure_ascii=False)
        case _:
            return str(value)[:_SHOWN_MAX]
