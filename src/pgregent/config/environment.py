"""Settings from the environment: PATRONI_<SECTION>_<KEY>, and the same with PGREGENT_.

The environment wins over the file, PGREGENT_ over PATRONI_. Secrets can also be the content of a
file: PGREGENT_SUPERUSER_PASSWORD_FILE. Variables that are empty count as absent.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, SecretStr

from pgregent.config.document import Document, Finding, Keys
from pgregent.config.later import ETCD_V2, LATER
from pgregent.config.schema import ANY_OTHER, AgentConfig
from pgregent.config.section import plain_type, section_in, spellings
from pgregent.config.suggest import nearest

PREFIXES = ("PGREGENT_", "PATRONI_")
WHOLE = "CONFIGURATION"
NOT_SETTINGS = frozenset({"PGREGENT_DIR", "PGREGENT_CONFIG_FILE"})
"""Variables that the command line reads."""

_WHOLE_NAMES = tuple(prefix + WHOLE for prefix in PREFIXES)
_LOG_NAMES = {"LOGLEVEL": "level", "LOGFORMAT": "format", "LOG_DATEFMT": "dateformat"}
"""Patroni's older ones."""
_OWN_SECTION = "pgregent"
_FILE = "_FILE"
_SECRET_FILE_BYTES_MAX = 1 << 16
_ALIKE = 0.8


@dataclass(frozen=True, slots=True)
class _Setting:
    """What a variable sets: `keys` lead to it, `others` are older names of it there."""

    keys: Keys
    others: tuple[str, ...] = ()
    is_collection: bool = False
    is_secret: bool = False
    adds: bool = False
    """Whether its mapping is laid over the file's instead of taking its place."""


@cache
def _settings() -> Mapping[str, _Setting]:
    """Every variable's name, without _FILE, and what it sets; of two for one key the last wins."""
    found: dict[str, _Setting] = {}
    for prefix in PREFIXES:
        found[f"{prefix}TAGS"] = _Setting(("tags",), is_collection=True, adds=True)
        for name, key in _LOG_NAMES.items():
            found[prefix + name] = _Setting(("log", key))
    for setting in _leaves(AgentConfig, ()):
        for spelling in (*setting.others, setting.keys[-1]):
            for name in _names((*setting.keys[:-1], spelling)):
                found[name] = setting
    return found


def _names(keys: Keys) -> tuple[str, ...]:
    words = [str(key) for key in keys]
    if words[0] == _OWN_SECTION:
        return (f"{PREFIXES[0]}{'_'.join(words[1:])}".upper(),)
    if words[:2] == ["postgresql", "authentication"]:
        words = words[2:]
    elif words[1:2] == ["authentication"]:
        words = [words[0], *words[2:]]
    return tuple(prefix + "_".join(words).upper() for prefix in PREFIXES)


def _leaves(model: type[BaseModel], around: Keys) -> Iterator[_Setting]:
    for name, info in model.model_fields.items():
        names = spellings(name, info)
        if (section := section_in(info)) is not None:
            yield from _leaves(section, (*around, names[0]))
        elif names[0] != ANY_OTHER:
            kind = plain_type(info)
            is_collection = get_origin(kind) in (tuple, Mapping)
            yield _Setting((*around, names[0]), names[1:], is_collection, _holds_secret(kind))


def _holds_secret(kind: Any) -> bool:
    return kind is SecretStr or any(_holds_secret(part) for part in get_args(kind))


def whole_text(environ: Mapping[str, str]) -> tuple[str, str]:
    """The variable that holds a whole configuration, and its text; two empty texts: none does."""
    for name in _WHOLE_NAMES:
        if text := environ.get(name):
            return name, text
    return "", ""


def forget_secrets(environ: MutableMapping[str, str]) -> tuple[str, ...]:
    """Remove the variables that hold secrets, so that children do not inherit them.

    Returns their names. (What a process was itself started with stays visible to its own user
    and root in /proc; a …_FILE variable does not have that fault.)
    """
    settings = _settings()
    secret = [
        name
        for name in environ
        if (name in settings and settings[name].is_secret) or name in _WHOLE_NAMES
    ]
    for name in secret:
        del environ[name]
    return tuple(sorted(secret))


def overlay(document: Document, environ: Mapping[str, str]) -> tuple[Finding, ...]:
    """Lay the environment's settings over the document's values; returns warnings.

    What cannot be used is added to the document's mistakes.
    """
    if not isinstance(document.value, dict):
        return ()
    given = {n: v for n, v in environ.items() if n.startswith(PREFIXES) and v}
    for name in sorted(given):
        if _is_later(name):
            text = "not supported yet (Patroni's): remove it"
            if name.split("_")[1] == "ETCD":
                text = ETCD_V2
            document.mistakes.append(Finding(0, "", text, name))
    # PATRONI_ first, so that PGREGENT_ is laid above it.
    for prefix in reversed(PREFIXES):
        for name, setting in _settings().items():
            if name.startswith(prefix):
                _use(document, given, name, setting)
    return tuple(w for name in sorted(given) if (w := _doubt(name)) is not None)


def _use(document: Document, given: Mapping[str, str], name: str, setting: _Setting) -> None:
    file = name + _FILE if setting.is_secret else ""
    if file in given and name in given:
        text = f"given beside {file}, expected one of the two"
        document.mistakes.append(Finding(0, "", text, name))
    elif file in given:
        content = _content(document, file, given[file])
        if content is not None:
            _set(document, file, setting, content)
    elif name in given:
        _set(document, name, setting, given[name])


def _content(document: Document, variable: str, path: str) -> str | None:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_SECRET_FILE_BYTES_MAX + 1)
        if len(data) <= _SECRET_FILE_BYTES_MAX:
            return data.decode().removesuffix("\n").removesuffix("\r")
        reason = "larger than 64 kB"
    except OSError as error:
        reason = error.strerror or "unreadable"
    except UnicodeDecodeError:
        reason = "not UTF-8 text"
    text = f"cannot read the secret in {path}: {reason}"
    document.mistakes.append(Finding(0, "", text, variable))
    return None


def _set(document: Document, variable: str, setting: _Setting, text: str) -> None:
    value = _parsed(text) if setting.is_collection else text
    section = cast(dict[Any, Any], document.value)
    for key in setting.keys[:-1]:
        if section.get(key) is None:
            section[key] = {}
        inner: Any = section[key]
        if not isinstance(inner, dict):
            return
        section = cast(dict[Any, Any], inner)
    for other in setting.others:
        section.pop(other, None)
    key = setting.keys[-1]
    before = section.get(key)
    if setting.adds and isinstance(value, dict) and isinstance(before, dict):
        added = cast(dict[Any, Any], value)
        document.variables |= {(*setting.keys, name): variable for name in added}
        section[key] = {**cast(dict[Any, Any], before), **added}
    else:
        document.variables[setting.keys] = variable
        section[key] = value


def _parsed(text: str) -> Any:
    """YAML; what is none (Patroni's `'a:1','b:2'`) is left to the key's own check."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


@cache
def _later() -> tuple[str, ...]:
    keys = [(*section.split("."), key) for section, names in LATER.items() for key in names]
    found = {name for path in keys for name in _names(tuple(word for word in path if word))}
    return tuple(found)


def _is_later(name: str) -> bool:
    """Whether it is a key that comes later, or one in a section that does."""
    return not _known(name) and any(
        name == later or name.startswith(later + "_") for later in _later()
    )


def _known(name: str) -> bool:
    settings = _settings()
    if name in settings or name in NOT_SETTINGS or name in _WHOLE_NAMES:
        return True
    secret = settings.get(name.removesuffix(_FILE))
    return name.endswith(_FILE) and secret is not None and secret.is_secret


def _doubt(name: str) -> Finding | None:
    if name in _WHOLE_NAMES:
        return Finding(0, "", "ignored: a file is given", name)
    if _known(name) or _is_later(name):
        return None
    meant = nearest(name, _settings(), alike=_ALIKE)
    if meant is None:
        return None
    return Finding(0, "", f"no setting; did you mean {meant}?", name)
