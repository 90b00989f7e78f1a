"""pg_basebackup's options, in Patroni's shape."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, cast

from pydantic import BeforeValidator

from pgregent.config.types import parameter_text

_FLAGS = frozenset({"manifest-force-encode", "no-estimate-size", "no-manifest"}) | {
    "no-verify-checksums",
    "progress",
    "verbose",
}
_VALUED = frozenset({"checkpoint", "compress", "label", "manifest-checksums", "max-rate"}) | {
    "status-interval",
    "sync-method",
}
_EXPECTED = "a list or a mapping of pg_basebackup's options, as in `- max-rate: 100M`"

Option = str | Mapping[str, str]


def _options(value: object) -> tuple[Option, ...]:
    """Raises ValueError for what is no option, or would make another copy than a member needs."""
    return tuple(_option(name, text) for name, text in _entries(value))


def _entries(value: object) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from cast(dict[Any, Any], value).items()
        return
    if not isinstance(value, list | tuple):
        raise ValueError(_EXPECTED)
    for item in cast(list[Any], value):
        if isinstance(item, dict) and len(cast(dict[Any, Any], item)) == 1:
            yield from cast(dict[Any, Any], item).items()
        else:
            yield item, None


def _option(name: object, text: object) -> Option:
    if isinstance(name, str) and name in _FLAGS and text in (None, "", True):
        return name
    if not isinstance(name, str) or name not in _VALUED or text is None:
        allowed = ", ".join(sorted(_FLAGS)) + f"; with a value {', '.join(sorted(_VALUED))}"
        raise ValueError(f"{_EXPECTED}, and of them only {allowed}")
    if name == "compress" and not str(text).startswith("server"):
        raise ValueError("compress as in `server-gzip`: the copy is not kept compressed")
    return {name: parameter_text(text)}


Options = Annotated[tuple[Option, ...], BeforeValidator(_options)]


def arguments(options: tuple[Option, ...]) -> tuple[str, ...]:
    """As pg_basebackup is given them."""
    return tuple(
        f"--{option}" if isinstance(option, str) else f"--{name}={text}"
        for option in options
        for name, text in ({option: ""} if isinstance(option, str) else option).items()
    )
