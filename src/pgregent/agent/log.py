"""The process's log, as the section `log` says."""

import contextlib
import logging
import queue
import sys
import threading
import time
from logging.handlers import QueueHandler, RotatingFileHandler
from pathlib import Path
from typing import Any

from pgregent.config.log import Log
from pgregent.core.errors import Refused

FILE = "pgregent.log"
_OURS = "pgregent"
_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_END = object()
FLUSH_S = 1.0
"""Seconds that a log which is closed may take to be written."""
_named: set[str] = set()
"""The loggers that were given a level of their own."""


def configure_log(config: Log) -> None:
    """Log like this from now on. Raises Refused, with nothing changed, for a file that cannot be
    written."""
    writer = _handler(config)
    writer.setFormatter(_formatter(config))
    handler = _Queued(writer, config.max_queue_size)
    handler.name = _OURS
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


class _Queued(QueueHandler):
    """Has a thread of its own write: whoever logs never waits for a disk or a pipe that hangs. What
    there is no room for is counted, and told when there is room again."""

    def __init__(self, writer: logging.Handler, size: int) -> None:
        self._records: queue.Queue[Any] = queue.Queue(size)
        super().__init__(self._records)
        self._writer, self._lost = writer, 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """As it is now; what it was told with may change."""
        record.msg, record.args = record.getMessage(), None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Without waiting."""
        try:
            if self._lost:
                text = f"{self._lost} lines are not here: they came faster than they were written"
                lost = logging.LogRecord(_OURS, logging.WARNING, "", 0, text, None, None)
                self._records.put_nowait(lost)
                self._lost = 0
            self._records.put_nowait(record)
        except queue.Full:
            self._lost += 1

    def _write(self) -> None:
        while (record := self._records.get()) is not _END:
            self._writer.handle(record)
            self._records.task_done()

    def flush(self) -> None:
        """Wait until all is written, for a second at most."""
        until = time.monotonic() + FLUSH_S
        while self._records.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.001)

    def close(self) -> None:
        """End the thread once it has written; one that hangs is left to the end of the process."""
        self.flush()
        with contextlib.suppress(queue.Full):
            self._records.put_nowait(_END)
            self._thread.join(FLUSH_S)
        if not self._thread.is_alive():
            self._writer.close()
        super().close()


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
