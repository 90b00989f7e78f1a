"""What works and is still worth a warning."""

from collections.abc import Mapping
from typing import Any, cast

from pgregent.config.document import Document, Finding, Keys
from pgregent.config.parameters import parameter_warnings

_LOCAL: Keys = ("postgresql",)
_BOOTSTRAP: Keys = ("bootstrap",)
_DYNAMIC: Keys = ("bootstrap", "dcs", "postgresql")


def file_warnings(document: Document) -> tuple[Finding, ...]:
    """The warnings about an agent's file that has no mistakes, in order of their lines."""
    found = [
        *_parameters(document, _LOCAL, local=True),
        *_parameters(document, _DYNAMIC, local=False),
        *(w for section in (_LOCAL, _BOOTSTRAP, _DYNAMIC) for w in _hba(document, section)),
    ]
    return tuple(sorted(found, key=lambda w: w.line))


def dynamic_warnings(document: Document) -> tuple[Finding, ...]:
    """The warnings about a dynamic configuration that has no mistakes."""
    section: Keys = ("postgresql",)
    return (*_parameters(document, section, local=False), *_hba(document, section))


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
