"""What `edit-config` makes of the dynamic configuration: from files and from KEY=VALUE."""

import difflib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pgregent.cli.options import as_yaml
from pgregent.core.errors import Refused


def with_settings(config: Mapping[str, Any], pairs: Iterable[str]) -> dict[str, Any]:
    """`config` with each KEY=VALUE, whose key has dots and whose value is YAML; null removes.
    Raises Refused."""
    changed = dict(config)
    for pair in pairs:
        key, equals, text = pair.partition("=")
        keys = key.strip().split(".")
        if keys[:2] == ["postgresql", "parameters"] and len(keys) > 3:
            # The names of extensions' parameters have dots.
            keys[2:] = [".".join(keys[2:])]
        if not equals or not all(keys):
            raise Refused(f"{pair!r}: expected KEY=VALUE, as in ttl=20")
        changed = _with(changed, keys, _value(key, text))
    return changed


def _with(section: Mapping[str, Any], keys: Sequence[str], value: object) -> dict[str, Any]:
    """With that value at that place, or, if it is None, without it and what is empty then."""
    key, *deeper = keys
    if deeper:
        inner = section.get(key)
        around = cast(dict[str, Any], inner) if isinstance(inner, dict) else {}
        value = _with(around, deeper, value) or None
    if value is None:
        return {k: v for k, v in section.items() if k != key}
    return {**section, key: value}


def _value(key: str, text: str) -> object:
    import yaml

    try:
        value: object = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise Refused(f"{key}: found {text!r}, expected a value as in YAML") from None
    return _storable(value, key)


def read_mapping(file: str) -> dict[str, Any]:
    """The YAML in `file`, or, if that is "-", on standard input. Raises Refused."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text in UTF-8"
        raise Refused(f"{file}: cannot read it: {why}; expected a file of YAML") from None
    return parse_mapping(text, "standard input" if file == "-" else file)


def parse_mapping(text: str, where: str) -> dict[str, Any]:
    """The YAML mapping in `text`. Raises Refused naming `where` it was found."""
    from pgregent.config.document import parse_yaml

    document = parse_yaml(text)
    if document.mistakes:
        raise Refused("\n".join(mistake.worded(where) for mistake in document.mistakes))
    return cast(dict[str, Any], _storable(document.value, where))


def _storable(value: object, where: str) -> object:
    """As JSON keeps it: keys are text there."""
    try:
        return cast(object, json.loads(json.dumps(value, allow_nan=False)))
    except (TypeError, ValueError, RecursionError):
        raise Refused(
            f"{where}: found a date or another value that JSON does not have: put it in quotes"
        ) from None


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What changes, as `diff -u` shows it."""
    lines = (as_yaml(config).splitlines(keepends=True) for config in (before, after))
    return "".join(difflib.unified_diff(*lines, fromfile="stored", tofile="changed"))
