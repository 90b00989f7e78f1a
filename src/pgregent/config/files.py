"""A configuration's text from where it is: a file, or a directory of them, as Patroni reads it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pgregent.config.document import Document, parse_yaml
from pgregent.core.errors import Refused

_FILE_BYTES_MAX = 1 << 20
_SUFFIXES = (".yml", ".yaml")


def read_document(path: Path) -> Document:
    """The file's values. Of a directory: its *.yml and *.yaml in the order of their names, each
    laid over those before it. Raises Refused for what cannot be read."""
    try:
        return _of_directory(path) if path.is_dir() else parse_yaml(_text(path))
    except OSError as error:
        where = error.filename or path
        raise Refused(f"cannot read the configuration {where}: {error.strerror}") from None


def _of_directory(path: Path) -> Document:
    files = sorted(f for f in path.iterdir() if f.suffix in _SUFFIXES and f.is_file())
    if not files:
        raise Refused(f"cannot read the configuration {path}: no *.yml and no *.yaml in it")
    whole, values = Document(), dict[Any, Any]()
    for file in files:
        part = parse_yaml(_text(file))
        whole.lines |= part.lines
        whole.files |= dict.fromkeys(part.lines, str(file))
        whole.mistakes += [replace(found, file=str(file)) for found in part.mistakes]
        given: Any = part.value
        if isinstance(given, dict):
            values = _laid_over(values, cast(dict[Any, Any], given))
    whole.value = values
    return whole


def _laid_over(below: dict[Any, Any], above: dict[Any, Any]) -> dict[Any, Any]:
    """Mappings are merged, all else is replaced; a key with nothing behind it counts as absent."""
    found = dict(below)
    for key, value in above.items():
        inner = found.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            value = _laid_over(cast(dict[Any, Any], inner), cast(dict[Any, Any], value))
        found[key] = value
    return found


def _text(path: Path) -> str:
    if path.stat().st_size > _FILE_BYTES_MAX:
        raise Refused(f"{path} is larger than 1 MB: is it a configuration file?")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8 text") from None
