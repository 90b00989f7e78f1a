"""The process's log."""

import contextlib
import json
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgregent.agent.log import FILE, configure_log
from pgregent.config.log import Log
from pgregent.core.errors import Refused

log = logging.getLogger("pgregent")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    configure_log(Log())
    root.handlers[:], root.level = handlers, level


def written() -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    written()
    return capsys.readouterr().err.splitlines()


def test_plain(capsys: pytest.CaptureFixture[str]) -> None:
    configure_log(Log())
    log.info("a %s", "word")
    log.debug("not shown")
    (line,) = said(capsys)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO a word", line)
    configure_log(Log(format="%(asctime)s|%(message)s", dateformat="at %Y", level="debug"))
    log.debug("shown")
    (line,) = said(capsys)
    assert re.fullmatch(r"at \d{4}\|shown", line)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    form = (("levelname", "level"), ("message", "message"))
    configure_log(Log(type="json", static_fields={"app": "db", "rack": 3}))
    log.info("one")
    configure_log(Log.model_construct(type="json", format=form))
    log.info("two")
    first, second = map(json.loads, said(capsys))
    assert re.fullmatch(r"[-0-9]+ [:.0-9]+", first.pop("asctime"))
    assert first == {"levelname": "INFO", "message": "one", "app": "db", "rack": 3}
    assert second == {"level": "INFO", "message": "two"}


def test_a_file_that_is_begun_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"dir": str(tmp_path), "mode": "0600", "file_size": 100, "file_num": 2}
    configure_log(Log.model_validate({**files, "format": "%(message)s"}))
    for number in range(20):
        log.info("line %d, and some more words", number)
    written()
    assert sorted(p.name for p in tmp_path.iterdir()) == [FILE, f"{FILE}.1", f"{FILE}.2"]
    assert (tmp_path / FILE).read_text().splitlines()[-1].startswith("line 19,")
    for file in tmp_path.iterdir():
        assert file.stat().st_size <= 100
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not said(capsys)


def test_a_file_that_cannot_be_written_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_log(Log(format="%(message)s"))
    with pytest.raises(Refused, match=r"log\.dir: cannot write /.*absent/pgregent\.log: No such"):
        configure_log(Log.model_validate({"dir": str(tmp_path / "absent"), "level": "error"}))
    log.info("still here")
    assert said(capsys) == ["still here"]


def test_single_loggers_and_what_they_were_before(capsys: pytest.CaptureFixture[str]) -> None:
    other = logging.getLogger("pgregent.test_log")
    configure_log(Log(loggers={"pgregent.test_log": "error"}, format="%(message)s"))
    other.info("not shown")
    configure_log(Log(format="%(message)s"))
    other.info("shown")
    assert said(capsys) == ["shown"]


def test_tracebacks_at_the_level_debug_only(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> list[str]:
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("it %s", "failed")
        return said(capsys)

    configure_log(Log(format="%(message)s"))
    assert fail()[1] == "Traceback (most recent call last):"
    configure_log(Log(format="%(message)s", traceback_level="debug"))
    assert fail() == ["it failed: ValueError('why')"]
    configure_log(Log(format="%(message)s", traceback_level="debug", level="debug"))
    assert fail()[1] == "Traceback (most recent call last):"


def test_nobody_waits_for_a_disk_that_hangs(tmp_path: Path) -> None:
    """A pipe that nobody reads takes its place. What there was no room for is counted."""
    os.mkfifo(tmp_path / FILE)
    reader = os.open(tmp_path / FILE, os.O_RDWR | os.O_NONBLOCK)
    try:
        section = {"dir": str(tmp_path), "max_queue_size": 10, "format": "%(message)s"}
        configure_log(Log.model_validate(section))
        for number in range(2000):
            log.info("%d %s", number, "x" * 200)
        text = b""
        while not text.endswith(b"\nlast\n"):
            with contextlib.suppress(BlockingIOError):
                text += os.read(reader, 1 << 20)
            log.info("last")
        lines = text.decode().splitlines()
        assert any(re.fullmatch(r"[1-9][0-9]* lines are not here: .*", line) for line in lines)
        numbers = [int(line.split()[0]) for line in lines if line.endswith("x")]
        assert numbers == sorted(numbers) and 0 < len(numbers) < 2000
    finally:
        configure_log(Log())
        os.close(reader)
