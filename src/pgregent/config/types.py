"""Types of configuration values. A wrong one raises ValueError; its text is what was expected."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

from pydantic import BeforeValidator, PlainValidator

_WORDS = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_ITEMS_MAX = 1000

# initdb's options that pgregent sets itself, or that would break what it promises.
_INITDB_OWN = frozenset(
    {"pgdata", "pwfile", "pwprompt", "username", "no-sync", "nosync", "sync-only", "no-clean"}
    | {"waldir", "version", "show", "auth", "auth-host", "auth-local"}
)


@dataclass(frozen=True, slots=True)
class HostPort:
    """A host name, address or (for listening) comma-separated list of them, and a port."""

    host: str
    port: int

    @property
    def is_wildcard(self) -> bool:
        """Whether this means every address of the machine, so that nobody can connect to it."""
        return any(h.strip() in ("*", "0.0.0.0", "::") for h in self.host.split(","))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host and "," not in self.host else self.host
        return f"{host}:{self.port}"


def parse_host_port(value: object) -> HostPort:
    """Parse "host:port" or "[v6 address]:port". Raises ValueError."""
    if isinstance(value, HostPort):
        return value
    expected = 'an address and a port from 1 to 65535, as in "127.0.0.1:5432"'
    if not isinstance(value, str):
        raise ValueError(expected)
    host, _, port = value.strip().rpartition(":")
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(expected)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host and "," not in host:
        raise ValueError(f'{expected}, or "[::1]:5432" for IPv6')
    if not host or any(c.isspace() or c == "/" for c in host):
        raise ValueError(expected)
    return HostPort(host, int(port))


def _number(value: object) -> float | int | None:
    if isinstance(value, str):
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value


def seconds(low: float, high: float) -> BeforeValidator:
    """A duration in seconds, both ends allowed."""

    def check(value: object) -> float:
        number = _number(value)
        if number is None or not low <= number <= high:
            raise ValueError(f"a number of seconds from {low:g} to {high:g}, without a unit")
        return float(number)

    return BeforeValidator(check)


def integer(low: int, high: int) -> BeforeValidator:
    """A whole number, both ends allowed."""

    def check(value: object) -> int:
        number = _number(value)
        if number is None or not low <= number <= high or number != int(number):
            raise ValueError(f"a whole number from {low} to {high}")
        return int(number)

    return BeforeValidator(check)


def choice(*allowed: str, **spelt: str) -> BeforeValidator:
    """One of `allowed`; YAML's booleans stand for "on" and "off"; `spelt` maps other spellings."""

    def check(value: object) -> str:
        if isinstance(value, bool):
            value = "on" if value else "off"
        word = value.lower() if isinstance(value, str) else ""
        word = spelt.get(word, word)
        if word not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return word

    return BeforeValidator(check)


def _flag(value: object) -> bool:
    known = _WORDS.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(known, bool):
        raise ValueError("true or false")
    return known


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text (put it in quotes)")
    if not value.strip() or "\0" in value or "\n" in value:
        raise ValueError("text of one line that is not empty")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a name (put it in quotes)")
    if not _NAME.fullmatch(value):
        raise ValueError("a name of at most 63 letters, digits, '_', '-' and '.'")
    return value


def _namespace(value: object) -> str:
    parts = _text(value).strip("/").split("/")
    if not all(_NAME.fullmatch(part) for part in parts):
        raise ValueError('a path of names, as in "/service"')
    return "/" + "/".join(parts)


def _absolute(value: object) -> str:
    if not isinstance(value, str) or "\n" in value or not PurePosixPath(value).is_absolute():
        raise ValueError("an absolute path")
    return str(PurePosixPath(value))


def _parameter(value: object) -> str:
    """Write a value as PostgreSQL would be given it in postgresql.conf, without the quotes."""
    match value:
        case bool():
            return "on" if value else "off"
        case int() | float():
            return str(value)
        case str() if "\0" not in value and "\n" not in value:
            return value
        case _:
            raise ValueError("a text, a number or a boolean (one line)")


def _without_null(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    items = cast(Mapping[Any, Any], value)
    return {k: v for k, v in items.items() if v is not None}


def _items(value: object, expected: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(expected)
    items = list(cast(list[Any], value))
    if len(items) > _ITEMS_MAX:
        raise ValueError(f"at most {_ITEMS_MAX} entries")
    return items


def _lines(value: object) -> tuple[str, ...]:
    expected = "a list of texts, each of one line"
    items = _items(value, expected)
    if not all(isinstance(item, str) and "\n" not in item and "\0" not in item for item in items):
        raise ValueError(expected)
    return tuple(items)


def _initdb(value: object) -> tuple[str, ...]:
    """Turn Patroni's list (`- encoding: UTF8`, `- data-checksums`) into initdb's arguments."""
    expected = "a list of initdb's options, as in `- encoding: UTF8` or `- data-checksums`"
    options: list[str] = []
    for item in _items(value, expected):
        entries = cast(dict[Any, Any], item if isinstance(item, dict) else {item: ""})
        if len(entries) != 1:
            raise ValueError(expected)
        name, text = next(iter(entries.items()))
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z-]*", name):
            raise ValueError(expected)
        if name in _INITDB_OWN:
            raise ValueError(f"initdb's options without {name!r}, which pgregent sets itself")
        options.append(f"--{name}={_parameter(text)}" if text != "" else f"--{name}")
    return tuple(options)


def _validator(check: Callable[[object], object]) -> BeforeValidator:
    return BeforeValidator(check)


HOST_PORT = PlainValidator(parse_host_port)
FLAG = _validator(_flag)
TEXT = _validator(_text)
NAME = _validator(_name)
NAMESPACE = _validator(_namespace)
ABSOLUTE = _validator(_absolute)
PARAMETER = _validator(_parameter)
WITHOUT_NULL = _validator(_without_null)
LINES = _validator(_lines)
INITDB = _validator(_initdb)
