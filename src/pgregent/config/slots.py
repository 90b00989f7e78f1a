"""Replication slots that are not of members, in Patroni's shape: what to keep, what to leave."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, cast

from pydantic import BeforeValidator

_NAME = re.compile(r"[a-z0-9_]{1,63}")
_MATCHED = ("name", "type", "database", "plugin")
_SLOTS = "names of physical slots, as in `barman: {type: physical}`"
_IGNORED = "a list of what such slots have, as in `- {name: barman, type: physical}`"
ANY = "*"
"""Every slot: a name that none can have."""


def _slots(value: object) -> Mapping[str, Mapping[str, str]]:
    """Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(_SLOTS)
    found: dict[str, Mapping[str, str]] = {}
    for name, about in cast(dict[Any, Any], value).items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{_SLOTS}; a name has 1 to 63 of a-z, 0-9 and _")
        if about not in (None, {}, {"type": "physical"}):
            raise ValueError(f"{_SLOTS}; logical ones are not supported yet")
        found[name] = {"type": "physical"}
    return found


def _ignored(value: object) -> tuple[Mapping[str, str], ...]:
    """Raises ValueError."""
    if not isinstance(value, list | tuple):
        raise ValueError(_IGNORED)
    found: list[Mapping[str, str]] = []
    for item in cast(Iterable[Any], value):
        matches = cast(dict[Any, Any], item) if isinstance(item, dict) else {}
        right = matches and all(k in _MATCHED and isinstance(v, str) for k, v in matches.items())
        if not right or matches.get("type") not in (None, "physical", "logical"):
            raise ValueError(f"{_IGNORED}; of {', '.join(_MATCHED)}")
        found.append(matches)
    return tuple(found)


def ignored_names(ignored: Iterable[Mapping[str, str]]) -> frozenset[str]:
    """The names of the physical slots that these match, or ANY; a physical slot has neither a
    database nor a plugin."""
    physical = (m for m in ignored if m.get("type", "physical") == "physical")
    return frozenset(m.get("name", ANY) for m in physical if not {"database", "plugin"} & m.keys())


Slots = Annotated[Mapping[str, Mapping[str, str]], BeforeValidator(_slots)]
Ignored = Annotated[tuple[Mapping[str, str], ...], BeforeValidator(_ignored)]
