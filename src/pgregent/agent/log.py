"""The process's log, as the section `log` says."""

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from pgregent.config.log import Log
from pgregent.core.errors import Refused

FILE = "pgregent.log"
_OURS = "pgregent"
_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_named: set[str] = set()
"""The loggers that were given a level of their own."""


def configure_log(config: Log) -> None:
    """Log like this from now on. Raises Refused, with nothing changed, for a file that cannot be
    written."""
    handler = _handler(config)
    handler.name = _OURS
    handler.setFormatter(_formatter(config))
    if config.traceback_level == "debug" and config.level != "debug":
        handler.addFilter(_without_traceback)
    root = logging.getLogger()
    before = [old for old in root.handlers if old.name == _OURS]
    root.addHandler(handler)
    for old in before:
        root.removeHandler(old)
        old.close()
    root.setLevel(config.level.upper())
    for name in _named - config.loggers.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, level in config.loggers.items():
        logging.getLogger(name).setLevel(level.upper())
    _named.update(config.loggers)


class _File(RotatingFileHandler):
    """Every file that it begins has the mode."""

    def __init__(self, path: Path, config: Log) -> None:
        self._mode = config.mode
        super().__init__(
            path, maxBytes=config.file_size, backupCount=config.file_num, encoding="utf-8"
        )

    def _open(self) -> Any:
        stream = super()._open()
        if self._mode is not None:
            Path(self.baseFilename).chmod(self._mode)
        return stream


def _handler(config: Log) -> logging.Handler:
    if config.dir is None:
        return logging.StreamHandler(sys.stderr)
    try:
        return _File(config.dir / FILE, config)
    except OSError as error:
        raise Refused(
            f"log.dir: cannot write {config.dir / FILE}: {error.strerror}; expected a directory in "
            "which the agent may write"
        ) from error


def _formatter(config: Log) -> logging.Formatter:
    form = config.format or _FORMAT
    if config.type == "json":
        # Imported where it is used: most agents do not, and their restart has to be short.
        from pythonjsonlogger.json import JsonFormatter

        renamed: dict[str, str] = {}
        if isinstance(form, tuple):
            renamed = {name: shown for name, shown in form if name != shown}
            form = " ".join(f"%({name})s" for name, _ in form)
        formatter: logging.Formatter = JsonFormatter(
            form, config.dateformat, rename_fields=renamed, static_fields=dict(config.static_fields)
        )
    else:
        formatter = logging.Formatter(str(form), config.dateformat)
    formatter.default_msec_format = "%s.%03d"
    return formatter


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info:
        record.msg = f"{record.getMessage()}: {record.exc_info[1]!r}"
        record.args = record.exc_info = record.exc_text = None
    return True
