"""Read an agent's configuration: typed, with warnings, or every mistake in it at once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pgregent.config.document import Document, Finding, parse_yaml
from pgregent.config.dynamic import Dcs
from pgregent.config.environment import WHOLE, overlay, whole_text
from pgregent.config.files import read_document
from pgregent.config.later import DCS_LATER
from pgregent.config.mistakes import worded
from pgregent.config.remarks import dynamic_warnings, file_warnings
from pgregent.config.schema import AgentConfig
from pgregent.core.errors import Refused

_DYNAMIC_CHARS_MAX = 1 << 20

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration without mistakes, what is worth a warning in it (one line each), and the
    environment variables that were used."""

    config: AgentConfig
    warnings: tuple[str, ...]
    variables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadedDynamic:
    """A dynamic configuration without mistakes, and what is worth a warning in it."""

    dcs: Dcs
    warnings: tuple[str, ...]


def load(path: Path | None, environ: Mapping[str, str]) -> Loaded:
    """Read the file, or the directory of files, with the environment's settings above it. Without
    one, the text is in PGREGENT_CONFIGURATION or PATRONI_CONFIGURATION, and no other variable
    counts.

    Raises Refused with one line per mistake. See `environment.forget_secrets` for afterwards.
    """
    if path is not None:
        where, document = str(path), read_document(path)
        warnings = overlay(document, environ)
    else:
        where, text = whole_text(environ)
        if not where:
            raise Refused(f"no configuration: expected a file, or its text in PGREGENT_{WHOLE}")
        document, warnings = parse_yaml(text), ()
    config = _checked(document)
    if config is None:
        raise Refused(_all_of(where, document.mistakes))
    found = (*warnings, *file_warnings(document))
    variables = tuple(sorted(set(document.variables.values())))
    return Loaded(config, tuple(w.worded(where) for w in found), variables)


def load_config(path: Path) -> AgentConfig:
    """Read the file or directory alone. Raises Refused with one line per mistake."""
    return load(path, {}).config


def check_config(
    text: str, environ: Mapping[str, str] | None = None
) -> tuple[AgentConfig | None, tuple[Finding, ...]]:
    """The configuration and its warnings, or None and its mistakes, in order of their lines."""
    document = parse_yaml(text)
    warnings = overlay(document, environ or {})
    config = _checked(document)
    if config is None:
        return None, tuple(document.mistakes)
    return config, (*warnings, *file_warnings(document))


def parse_dynamic(text: str, where: str) -> LoadedDynamic:
    """Read the JSON that the DCS holds. Raises Refused naming `where` it was found."""
    document = Document()
    try:
        document.value = json.loads(text[: _DYNAMIC_CHARS_MAX + 1])
    except (ValueError, RecursionError) as error:
        reason = str(error) or "nested too deeply"
        raise Refused(f"{where}: not valid JSON: {reason}") from None
    try:
        json.dumps(document.value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refused(f"{where}: found half a character, \\ud800 to \\udfff") from None
    dcs = _validated(document, Dcs, "bootstrap.dcs")
    if dcs is None:
        raise Refused(_all_of(where, document.mistakes))
    warnings = tuple(w.worded(where) for w in dynamic_warnings(document))
    return LoadedDynamic(dcs, warnings)


def _all_of(where: str, mistakes: list[Finding]) -> str:
    lines = [m.worded(where) for m in mistakes]
    if len(lines) > 1:
        lines.insert(0, f"{len(lines)} mistakes in {where}")
    return "\n".join(lines)


def _checked(document: Document) -> AgentConfig | None:
    """The configuration, or None: then the document has mistakes, in order of their lines."""
    config = None
    if isinstance(document.value, dict):
        config = _validated(document, AgentConfig, "")
        _expect_one_dcs(document)
    document.mistakes.sort(key=lambda m: (m.file, m.line))
    return None if document.mistakes else config


def _validated(document: Document, model: type[M], section: str) -> M | None:
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        document.mistakes += [worded(document, e, model, section) for e in error.errors()]
        return None


def _expect_one_dcs(document: Document) -> None:
    # Not a check of the model: those are skipped as soon as a single key is wrong.
    known = ("zookeeper", "etcd3", "local")
    ours = [name for name in known if document.at((name,)) is not None]
    for name in ours[1:]:
        text = f"given beside {ours[0]}, expected one DCS: remove one of the two"
        document.mistakes.append(document.finding((name,), text))
    if not ours and not any(name in document.value for name in DCS_LATER):
        text = (
            "missing, expected the DCS: `zookeeper: {hosts: [HOST:2181]}`, "
            "`etcd3: {hosts: [HOST:2379]}`, or `local: {path: /…/dcs.sqlite}` on one machine"
        )
        document.mistakes.append(Finding(0, "zookeeper", text))
