"""One supervised process, for real: started, adopted, started again, given up, stopped."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from pgregent.cli.events import Event
from pgregent.cli.supervise import Spec, Supervised
from pgregent.config.lockfile import lock_holder

HOLD = """
    import sys, signal
    from pathlib import Path
    from pgregent.config.lockfile import hold_lock
    lock = hold_lock(Path(sys.argv[1]))
    print("held", flush=True)
    signal.pause()
"""


def spec(folder: Path, source: str) -> Spec:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(source))
    argv = (sys.executable, str(script), str(folder / "lock"))
    return Spec("agent n1", argv, folder / "agent.log", folder / "lock")


async def until(what: str, condition: Callable[[], object], timeout: float = 15) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def supervised(one: Spec) -> AsyncIterator[tuple[Supervised, list[Event]]]:
    events: list[Event] = []
    process = Supervised(one, events.append)
    task = asyncio.create_task(process.run())
    try:
        yield process, events
    finally:
        process.stop(signal.SIGKILL)
        await asyncio.wait_for(task, 10)


async def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    one = spec(tmp_path, HOLD)
    async with supervised(one) as (process, events):
        await until("it runs", lambda: lock_holder(one.lock))
        first = lock_holder(one.lock)
        assert first == process.pid
        assert first is not None
        assert os.getsid(first) == first
        os.kill(first, signal.SIGKILL)
        await until("another runs", lambda: lock_holder(one.lock) not in (None, first))
        exited = next(e for e in events if e["event"] == "exited")
        assert exited["pid"] == first
        assert "SIGKILL" in exited["why"]
        assert "started again" in exited["why"]


async def test_a_living_process_is_adopted_and_replaced_when_it_dies(tmp_path: Path) -> None:
    one = spec(tmp_path, HOLD)
    other = subprocess.Popen(  # noqa: ASYNC220
        one.argv, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        await until("it runs", lambda: lock_holder(one.lock) == other.pid)
        async with supervised(one) as (process, events):
            await until("it is adopted", lambda: process.pid == other.pid)
            assert "adopted" in events[0]["why"]
            other.kill()
            await asyncio.to_thread(other.wait, 10)
            await until("another runs", lambda: lock_holder(one.lock) not in (None, other.pid))
    finally:
        other.kill()
        other.wait(10)


async def test_exit_code_2_is_final_and_its_error_is_kept(tmp_path: Path) -> None:
    source = 'import sys; sys.exit(print("pgregent: error: bad\\nworse", file=sys.stderr) or 2)'
    events: list[Event] = []
    process = Supervised(spec(tmp_path, source), events.append)
    (tmp_path / "agent.log").write_text("pgregent: error: of yesterday\n")
    await asyncio.wait_for(process.run(), 10)
    assert process.error == "bad\nworse"
    assert [e["event"] for e in events] == ["started", "exited"]
    assert events[-1]["code"] == 2


async def test_one_that_dies_at_once_is_started_more_and_more_slowly(tmp_path: Path) -> None:
    async with supervised(spec(tmp_path, "raise SystemExit('broken')")) as (_, events):

        def exits() -> list[Event]:
            return [e for e in events if e["event"] == "exited"]

        await until("three exits", lambda: len(exits()) >= 3)
        delays = ("in 0.1 s", "in 0.2 s", "in 0.4 s")
        for event, delay in zip(exits(), delays, strict=False):
            assert event["why"].startswith("it exited with code 1: broken")
            assert event["why"].endswith(delay)


async def test_stop_ends_it_and_nothing_starts_again(tmp_path: Path) -> None:
    one = spec(tmp_path, HOLD)
    events: list[Event] = []
    process = Supervised(one, events.append)
    task = asyncio.create_task(process.run())
    await until("it runs", lambda: lock_holder(one.lock))
    process.stop(signal.SIGTERM)
    await asyncio.wait_for(task, 10)
    assert lock_holder(one.lock) is None
    assert [e["event"] for e in events] == ["started", "exited"]


async def test_a_program_that_cannot_run_is_said_and_tried_again(tmp_path: Path) -> None:
    one = Spec("gate", ("/nonexistent/program",), tmp_path / "log", tmp_path / "lock")
    async with supervised(one) as (_, events):
        await until("two attempts", lambda: len(events) >= 2)
        assert "could not be started" in events[0]["why"]
    with suppress(ProcessLookupError):
        assert lock_holder(one.lock) is None
