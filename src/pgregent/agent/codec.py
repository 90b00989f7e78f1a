"""The core's dataclasses as JSON: in the DCS, on disk and between agents, with a version."""

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Any, TypeVar, cast

from pgregent.core.errors import Refused

VERSION = 1

T = TypeVar("T")


def encode(value: object) -> bytes:
    """One JSON object {"v": 1, …fields}; fields that have their default are left out."""
    return json.dumps({"v": VERSION, **plain(value)}, separators=(",", ":")).encode()


def decode(cls: type[T], data: bytes, where: str) -> T:
    """The dataclass that `data` holds. Raises Refused naming `where` it was found."""
    try:
        fields = json.loads(data)
        version = fields.pop("v")
        if version != VERSION:
            raise Refused(
                f"{where} has format version {version}, this pgregent reads {VERSION}: "
                "use the pgregent that wrote it, or a newer one"
            )
        return cast(T, _reader(cls)(fields))
    except Refused:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(
            f"{where} is corrupt ({type(error).__name__}: {error}): it was not written by pgregent "
            "or was damaged; restore it, or move it away"
        ) from error


def plain(value: Any) -> Any:
    """JSON-ready form of a dataclass, enum or collection; defaults are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found: dict[str, Any] = {}
        for name, default in _defaults(type(value)):
            item = getattr(value, name)
            if item != default:
                found[name] = plain(item)
        return found
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [plain(item) for item in cast(list[Any], value)]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in cast(Mapping[str, Any], value).items()}
    return value


_REQUIRED = object()


@cache
def _defaults(cls: type) -> tuple[tuple[str, object], ...]:
    return tuple(
        (f.name, _REQUIRED if f.default is dataclasses.MISSING else f.default)
        for f in dataclasses.fields(cls)
    )


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    if dataclasses.is_dataclass(kind):
        return _dataclass_reader(cast(type, kind))
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        item = _reader(arguments[0])
        return lambda value: tuple(item(v) for v in value)
    if origin in (types.UnionType, typing.Union):
        inner = _reader(next(a for a in arguments if a is not type(None)))
        return lambda value: None if value is None else inner(value)
    if origin is not None and issubclass(origin, Mapping):
        item = _reader(arguments[1])
        return lambda value: {str(k): item(v) for k, v in value.items()}
    scalar = cast(type, kind)
    if issubclass(scalar, Enum):
        return scalar
    return lambda value: _checked(scalar, value)


def _checked(kind: Any, value: Any) -> Any:
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed):
        raise TypeError(f"expected {kind.__name__}, found {value!r}")
    return value


def _dataclass_reader(cls: type) -> Callable[[Any], Any]:
    hints = typing.get_type_hints(cls)
    readers = {f.name: _reader(hints[f.name]) for f in dataclasses.fields(cls)}

    def read(fields: Any) -> Any:
        return cls(**{name: readers[name](v) for name, v in fields.items() if name in readers})

    return read
