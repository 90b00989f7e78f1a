"""Types of configuration values. A wrong one raises ValueError; its text is what was expected."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

from pydantic import BeforeValidator, PlainValidator

Scalar = str | int | float | bool

_WORDS = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_SIZE = re.compile(r"([0-9]{1,15}) *(|B|kB|MB|GB|TB)")
_UNITS = {"": 1, "B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_DURATION = re.compile(r"([0-9]{1,9}) *(|ms|s|min|h|d)")
_VERSION = re.compile(r"([1-9][0-9])\.([0-9]{1,2})")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_ITEMS_MAX = 1000
_ZOOKEEPER_PORT = 2181
ETCD_PORT = 2379
_PERMISSIONS = ("READ", "WRITE", "CREATE", "DELETE", "ADMIN", "ALL")

# initdb's options that pgregent sets itself, or that would break what it promises.
_INITDB_OWN = frozenset(
    {"pgdata", "pwfile", "pwprompt", "username", "no-sync", "nosync", "sync-only", "no-clean"}
    | {"waldir", "version", "show", "auth", "auth-host", "auth-local"}
)
_SEGMENT_SIZE = "wal-segsize"


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


@dataclass(frozen=True, slots=True)
class Expecting(BeforeValidator):
    """A check that can say which values it lets through."""

    expects: str = ""


def _number(value: object) -> float | int | None:
    if isinstance(value, str):
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value


def seconds(low: float, high: float) -> Expecting:
    """A duration in seconds, both ends allowed."""

    def check(value: object) -> float:
        number = _number(value)
        if number is None or not low <= number <= high:
            raise ValueError(f"a number of seconds from {low:g} to {high:g}, without a unit")
        return float(number)

    return Expecting(check, expects=f"{low:g} to {high:g} s")


def integer(low: int, high: int) -> Expecting:
    """A whole number, both ends allowed."""

    def check(value: object) -> int:
        number = _number(value)
        if number is None or not low <= number <= high or number != int(number):
            raise ValueError(f"a whole number from {low} to {high}")
        return int(number)

    return Expecting(check, expects=f"{low} to {high}")


def size(low: int) -> Expecting:
    """A number of bytes from `low`, or a text with one of PostgreSQL's units."""

    def check(value: object) -> int:
        found = _SIZE.fullmatch(str(value)) if isinstance(value, str | int) else None
        number = int(found[1]) * _UNITS[found[2]] if found else -1
        if number < low:
            raise ValueError(f"a number of bytes from {low}, or with a unit as in {low >> 10}kB")
        return number

    return Expecting(check, expects=f"from {low >> 10}kB")


def choice(*allowed: str, **spelt: str) -> Expecting:
    """One of `allowed`; YAML's booleans stand for "on" and "off"; `spelt` maps other spellings."""

    def check(value: object) -> str:
        if isinstance(value, bool):
            value = "on" if value else "off"
        word = value.lower() if isinstance(value, str) else ""
        word = spelt.get(word, word)
        if word not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return word

    return Expecting(check, expects=", ".join(allowed))


def _flag(value: object) -> bool:
    known = _WORDS.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(known, bool):
        raise ValueError("true or false")
    return known


def only_false(why: str) -> Expecting:
    """A flag whose other value is not supported yet; `why` says what happens instead."""

    def check(value: object) -> bool:
        if _flag(value):
            raise ValueError(f"false: true is not supported yet ({why})")
        return False

    return Expecting(check, expects="false")


def duration(value: object) -> float:
    """The seconds of a number of them, or of a text with a unit, as in 30min. Raises ValueError."""
    found = _DURATION.fullmatch(str(value)) if type(value) in (str, int) else None
    if found is None:
        raise ValueError("a number of seconds, or with a unit as in 30min")
    return int(found[1]) * _SECONDS[found[2]]


def version_number(value: object) -> int:
    """PostgreSQL's version as it counts them: "15.4" is 150004. Raises ValueError."""
    found = _VERSION.fullmatch(str(value))
    if found is None:
        raise ValueError("a version as in 15.4")
    return int(found[1]) * 10000 + int(found[2])


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


def parameter_text(value: object) -> str:
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


def _scalar(value: object) -> Scalar:
    if not isinstance(value, Scalar) or (isinstance(value, str) and "\n" in value):
        raise ValueError("a text, a number or a boolean (one line)")
    return value


def _hosts(name: str, port: int) -> PlainValidator:
    """Read a list, or Patroni's text of one: `a:2181,b:2181`, each in quotes or not."""
    expected = f"a list of hosts, as in `[{name}1:{port}, {name}2:{port}]`"

    def check(value: object) -> tuple[HostPort, ...]:
        items = cast(list[object], value.split(",") if isinstance(value, str) else value)
        hosts = [_host(item, port, expected) for item in _items(items, expected)]
        if not hosts:
            raise ValueError(expected)
        return tuple(hosts)

    return PlainValidator(check)


def _host(item: object, port: int, expected: str) -> HostPort:
    if not isinstance(item, str):
        raise ValueError(expected)
    text = item.strip().strip("'\"").strip()
    host = parse_host_port(text if re.search(r":\d+$", text) else f"{text}:{port}")
    if host.is_wildcard:
        raise ValueError(f"{expected}, which can be connected to")
    return host


def _permissions(value: object) -> tuple[str, ...]:
    expected = f"a list of {', '.join(_PERMISSIONS)}"
    items = _items([value] if isinstance(value, str) else value, expected)
    words = tuple(str(item).upper() for item in items)
    if not words or not all(word in _PERMISSIONS for word in words):
        raise ValueError(expected)
    return words


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
        if not isinstance(item, str | dict):
            raise ValueError(expected)
        entries = cast(dict[Any, Any], {item: ""} if isinstance(item, str) else item)
        if len(entries) != 1:
            raise ValueError(expected)
        name, text = next(iter(entries.items()))
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z-]*", name):
            raise ValueError(expected)
        # initdb takes the beginning of an option's name for the whole.
        if any(own.startswith(name) for own in _INITDB_OWN):
            raise ValueError(f"initdb's options without {name!r}, which pgregent sets itself")
        if _SEGMENT_SIZE.startswith(name) and str(text) != "16":
            raise ValueError(f"initdb's options without {name!r}: only 16 MB is supported")
        options.append(f"--{name}={parameter_text(text)}" if text != "" else f"--{name}")
    return tuple(options)


HOST_PORT = PlainValidator(parse_host_port)
HOSTS = _hosts("zoo", _ZOOKEEPER_PORT)
ETCD_HOSTS = _hosts("etcd", ETCD_PORT)
ETCD_HOST = PlainValidator(lambda value: _host(value, ETCD_PORT, "a host, as in `etcd1:2379`"))
FLAG = Expecting(_flag, expects="true, false")
DURATION = Expecting(duration, expects="seconds, or with ms, s, min, h, d")
TEXT = BeforeValidator(_text)
NAME = BeforeValidator(_name)
NAMESPACE = BeforeValidator(_namespace)
ABSOLUTE = BeforeValidator(_absolute)
PARAMETER = BeforeValidator(parameter_text)
SCALAR = BeforeValidator(_scalar)
PERMISSIONS = BeforeValidator(_permissions)
LINES = BeforeValidator(_lines)
INITDB = BeforeValidator(_initdb)
