"""The section `log`: where the agent's log goes, and what its lines look like."""

import logging
import time
from collections.abc import Mapping
from typing import Annotated, Literal, Self, cast

from pydantic import Field, PlainValidator, model_validator

from pgregent.config.section import NO_EFFECT, AbsolutePath, Flag, Section, mistake
from pgregent.config.types import SCALAR, Expecting, Scalar, choice, integer

_LEVELS = ("debug", "info", "warning", "error", "critical")
_MODE_MAX = 0o777

Fields = tuple[tuple[str, str], ...]
"""Of a record, each with the name that it has in the log."""


def _format(value: object) -> str | Fields:
    """Read logging's own format, or a list of fields, as in `[message, {asctime: time}]`."""
    if isinstance(value, str):
        _expect_format(value)
        return value
    expected = "a list of a record's fields, as in `[levelname, message, {asctime: time}]`"
    fields: list[tuple[str, str]] = []
    for item in cast(list[object], value) if isinstance(value, list) else ():
        if not isinstance(item, str | dict):
            raise ValueError(expected)
        entries = cast(dict[object, object], {item: item} if isinstance(item, str) else item)
        for name, shown in entries.items():
            if not isinstance(name, str) or not isinstance(shown, str):
                raise ValueError(expected)
            _expect_format(f"%({name})s")
            fields.append((name, shown))
    if not fields:
        raise ValueError(f'"%(asctime)s %(levelname)s: %(message)s", or {expected}')
    return tuple(fields)


def _expect_format(text: str) -> None:
    try:
        logging.Formatter(text).format(logging.makeLogRecord({}))
    except (ValueError, TypeError, KeyError) as error:
        expected = 'logging\'s own format, as in "%(asctime)s %(levelname)s: %(message)s"'
        raise ValueError(f"{expected} ({str(error).lower()})") from None


def _date_format(value: object) -> str:
    expected = "a format of strftime, as in `%Y-%m-%d %H:%M:%S`"
    if not isinstance(value, str) or "\n" in value or "\0" in value:
        raise ValueError(expected)
    try:
        time.strftime(value)
    except ValueError:
        raise ValueError(expected) from None
    return value


def _file_mode(value: object) -> int:
    """Read YAML's 0640, which is a number, or its text."""
    try:
        number = int(value, 8) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number <= _MODE_MAX:
        raise ValueError("a file's mode that begins with 0, as in 0640")
    return number


Level = Annotated[
    Literal["debug", "info", "warning", "error", "critical"],
    choice(*_LEVELS, warn="warning", fatal="critical"),
]


class Log(Section):
    """The agent's log."""

    type: Annotated[Literal["plain", "json"], choice("plain", "json")] = Field(
        default="plain", description="`json`: an object a line"
    )
    level: Level = Field(default="info", description="`debug` shows how long each step took")
    traceback_level: Annotated[Literal["debug", "error"], choice("debug", "error")] = Field(
        default="error",
        description="`debug`: what nobody expected is one line, and has its traceback only where "
        "level is `debug`",
    )
    format: Annotated[Fields | str | None, PlainValidator(_format)] = Field(
        default=None,
        description="the line, in the words of Python's logging; with json the fields, as a list "
        "too, in which `{asctime: time}` renames one",
    )
    dateformat: Annotated[str | None, PlainValidator(_date_format)] = Field(
        default=None, description="how asctime is written, in the words of strftime"
    )
    static_fields: Mapping[str, Annotated[Scalar, SCALAR]] = Field(
        default={}, description="fields of every line, with json"
    )
    dir: AbsolutePath | None = Field(
        default=None,
        description="a directory: the log is in its `pgregent.log`; without it on standard error",
    )
    mode: Annotated[int | None, Expecting(_file_mode, expects="0001 to 0777")] = Field(
        default=None, description="that file's mode; without it as the umask says"
    )
    file_num: Annotated[int, integer(0, 10000)] = Field(
        default=4,
        description="older files that are kept, `pgregent.log.1` and so on; 0: none is begun",
    )
    file_size: Annotated[int, integer(0, 2**40)] = Field(
        default=25000000, description="bytes from which a new file is begun; 0: never"
    )
    loggers: Mapping[str, Level] = Field(
        default={}, description="levels of single loggers, as in `aiohttp.access: warning`"
    )
    max_queue_size: Annotated[int, integer(0, 2**31)] = Field(
        default=1000,
        description="lines that wait to be written, at most: nobody waits for the disk, and what "
        "there is no room for is counted; 0: no limit",
    )
    deduplicate_heartbeat_logs: Flag = Field(
        default=False, description=f"{NO_EFFECT}: nothing is logged while nothing happens"
    )

    @model_validator(mode="after")
    def _plain_is_text(self) -> Self:
        if self.type == "plain" and isinstance(self.format, tuple):
            raise mistake("format", "text, because a list of fields needs type json")
        return self
