"""What pydantic finds wrong, in words: where, what was found, what was expected."""

import json
import re
from typing import Any

from pydantic import BaseModel

from pgregent.config.document import Document, Finding, Keys, dotted
from pgregent.config.later import DCS_LATER, ETCD_V2, LATER
from pgregent.config.schema import ANY_OTHER
from pgregent.config.section import key_names, spellings
from pgregent.config.suggest import did_you_mean

_SHOWN_MAX = 60
_SECRET = re.compile(r"password|secret|token|authentication|auth_data|^url$", re.IGNORECASE)


def worded(document: Document, error: Any, model: type[BaseModel], section: str) -> Finding:
    """Word one of pydantic's errors about `model`, which stands at `section` of the schema."""
    loc: Keys = tuple(part for part in error["loc"] if part not in ("[key]", ANY_OTHER))
    context: dict[str, Any] = error.get("ctx", {})
    match error["type"]:
        case "across_keys":
            loc = (*loc, context["key"])
            found = document.at(loc)
            text = f"expected {context['expected']}"
            text = text if found is None else f"found {shown(loc, found)}, {text}"
        case "missing":
            text = f"missing, expected {_description(model, loc)}"
        case "extra_forbidden":
            text = _unknown_key(model, section, loc)
        case "value_error":
            text = f"found {shown(loc, error['input'])}, expected {context['error']}"
        case "model_type" | "dict_type" | "mapping_type":
            text = f"found {shown(loc, error['input'])}, expected a mapping of keys"
        case "invalid_key":
            text = "this key is not text: put it in quotes"
        case "string_type" if "[key]" in error["loc"]:
            text = "this key is not text: put it in quotes"
        case "string_type":
            text = f"found {shown(loc, error['input'])}, expected a name (put it in quotes)"
        case _:
            text = f"found {shown(loc, error['input'])}: {error['msg']}"
    return document.finding(loc, text)


def _unknown_key(model: type[BaseModel], section: str, loc: Keys) -> str:
    parent = ".".join(part for part in (section, dotted(loc[:-1])) if part)
    name = str(loc[-1])
    later = LATER.get(parent, frozenset())
    if not parent and name == "etcd":
        return ETCD_V2
    if name in later:
        instead = "; the DCS is `zookeeper`, `etcd3` or `local`" if name in DCS_LATER else ""
        return f"not supported yet (Patroni's){instead}"
    there = _section_at(model, loc[:-1])
    known = set(key_names(there)) if there else set[str]()
    if name in known:
        return "an older name of a key that is given too: remove one of the two"
    return f"unknown key{did_you_mean(name, (known | later) - {ANY_OTHER})}"


def _section_at(model: type[BaseModel] | None, loc: Keys) -> type[BaseModel] | None:
    for part in loc:
        model = key_names(model).get(str(part)) if model else None
    return model


def _description(model: type[BaseModel], loc: Keys) -> str:
    section = _section_at(model, loc[:-1])
    for name, info in section.model_fields.items() if section else ():
        if loc[-1] in spellings(name, info) and info.description:
            return info.description
    return "a value"


def shown(loc: Keys, value: object) -> str:
    """The value as a message may show it: secrets are not, long texts are cut."""
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
