"""What works and is still worth a warning."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel

from pgregent.config.document import Document, Finding, Keys
from pgregent.config.dynamic import Dcs
from pgregent.config.parameters import parameter_warnings
from pgregent.config.schema import AgentConfig
from pgregent.config.section import NO_EFFECT, section_in, spellings

_LOCAL: Keys = ("postgresql",)
_BOOTSTRAP: Keys = ("bootstrap",)
_DYNAMIC: Keys = ("bootstrap", "dcs", "postgresql")


def file_warnings(document: Document) -> tuple[Finding, ...]:
    """The warnings about an agent's file that has no mistakes, in order of their lines."""
    found = [
        *_parameters(document, _LOCAL, local=True),
        *_parameters(document, _DYNAMIC, local=False),
        *(w for section in (_LOCAL, _BOOTSTRAP, _DYNAMIC) for w in _hba(document, section)),
        *_without_effect(document, AgentConfig, ()),
        *_log(document),
        *_priorities(document),
    ]
    return tuple(sorted(found, key=lambda w: (w.file, w.line)))


def dynamic_warnings(document: Document) -> tuple[Finding, ...]:
    """The warnings about a dynamic configuration that has no mistakes."""
    section: Keys = ("postgresql",)
    return (
        *_parameters(document, section, local=False),
        *_hba(document, section),
        *_without_effect(document, Dcs, ()),
    )


def _without_effect(document: Document, model: type[BaseModel], around: Keys) -> Iterator[Finding]:
    for name, info in model.model_fields.items():
        for keys in ((*around, spelling) for spelling in spellings(name, info)):
            if (section := section_in(info)) is not None:
                yield from _without_effect(document, section, keys)
            elif (info.description or "").startswith(NO_EFFECT) and document.at(keys) is not None:
                yield document.finding(keys, info.description or "")


def _log(document: Document) -> Iterator[Finding]:
    log: Keys = ("log",)
    fields: Keys = (*log, "static_fields")
    if document.at(fields) and document.at((*log, "type")) != "json":
        yield document.finding(fields, f"{NO_EFFECT}: they need `type: json`")
    for name in document.at((*log, "loggers")) or ():
        if str(name).startswith("patroni"):
            text = f"{NO_EFFECT}: no logger has this name here; pgregent's own is `pgregent`"
            yield document.finding((*log, "loggers", name), text)


def _priorities(document: Document) -> Iterator[Finding]:
    for name in ("failover_priority", "sync_priority"):
        if document.at(("tags", name)) not in (None, 0, 1):
            text = f"{NO_EFFECT}: only 0 has one; members are not preferred to others"
            yield document.finding(("tags", name), text)


def _parameters(document: Document, section: Keys, *, local: bool) -> list[Finding]:
    given = document.at((*section, "parameters"))
    if not isinstance(given, Mapping):
        return []
    parameters = cast(Mapping[Any, Any], given)
    return [
        document.finding((*section, "parameters", name), text)
        for name, text in parameter_warnings(parameters, local=local)
    ]


def _hba(document: Document, section: Keys) -> list[Finding]:
    lines = cast(list[str], document.at((*section, "pg_hba")) or [])
    return [
        document.finding(
            (*section, "pg_hba", i),
            "md5 works (SCRAM passwords log in through it too), and lets md5 hashes log in, "
            "which are weak; write scram-sha-256",
        )
        for i, line in enumerate(lines)
        if "md5" in line.split("#")[0].split()[3:]
    ]
