"""Which callback a change is the occasion for, and how the scripts are run."""

import asyncio
import logging
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pgregent.agent import callbacks
from pgregent.agent.callbacks import Callbacks
from pgregent.config.callbacks import Callbacks as Section
from pgregent.core.types import PgState, Postgres
from pgregent.core.view import State
from tests.api.members import PRIMARY, STANDBY, primary, standby
from tests.conformance import pg

STOPPED, STARTING, ABSENT, UNKNOWN = (
    Postgres(state)
    for state in (PgState.STOPPED, PgState.STARTING, PgState.ABSENT, PgState.UNKNOWN)
)


class Scripts:
    """A script that writes its arguments to a file, and then does what `then` says."""

    def __init__(self, folder: Path, then: str = "") -> None:
        self.told, self.file = folder / "told", folder / "script"
        self.file.write_text(f'#!/bin/sh\necho "$@" >> {self.told}\n{then}\n')
        self.file.chmod(stat.S_IRWXU)
        actions = ("on_start", "on_stop", "on_role_change", "on_reload")
        self.section = Section.model_validate(
            dict.fromkeys(actions, f"'{self.file}' 'an argument'")
        )

    def lines(self) -> list[str]:
        text = self.told.read_text() if self.told.exists() else ""
        return [line.removeprefix("an argument ") for line in text.splitlines()]

    async def said(self, count: int) -> list[str]:
        async def enough() -> bool:
            return len(self.lines()) >= count

        await pg.eventually(f"{count} calls", enough)
        return self.lines()


Watch = Callable[[State, Scripts], Callbacks]


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    made: list[Callbacks] = []

    def begin(state: State, scripts: Scripts) -> Callbacks:
        made.append(Callbacks(state, "demo", scripts.section))
        return made[-1]

    yield begin
    for one in made:
        await one.close()


async def look(one: Callbacks, state: State, *seen: Postgres) -> None:
    for postgres in seen:
        state.postgres = postgres
        one.look()
        one.look()


async def test_a_standby_that_becomes_the_primary(tmp_path: Path, watch: Watch) -> None:
    scripts, state = Scripts(tmp_path), primary()
    one = watch(state, scripts)
    await look(one, state, UNKNOWN, ABSENT, STOPPED, STARTING, STANDBY)
    assert await scripts.said(1) == ["on_start replica demo"]
    state.opened = False
    await look(one, state, STARTING, STANDBY, PRIMARY)
    state.opened = True
    await look(one, state, PRIMARY)
    assert await scripts.said(2) == ["on_start replica demo", "on_role_change primary demo"]


async def test_a_primary_that_becomes_a_standby(tmp_path: Path, watch: Watch) -> None:
    scripts, state = Scripts(tmp_path), primary()
    one = watch(state, scripts)
    await look(one, state, PRIMARY)
    await scripts.said(1)
    state.holding = True  # Without authority for a moment it is no standby.
    await look(one, state, PRIMARY)
    state.holding = False
    await look(one, state, STOPPED)
    await scripts.said(2)
    await look(one, state, STARTING, STANDBY)
    assert await scripts.said(3) == [
        "on_start primary demo",
        "on_stop primary demo",
        "on_role_change replica demo",
    ]


async def test_a_reload_is_told_while_it_runs_only(tmp_path: Path, watch: Watch) -> None:
    scripts, state = Scripts(tmp_path), standby()
    one = watch(state, scripts)
    read: list[str] = []

    async def reconfigure() -> None:
        read.append("read")

    await one.reconfigured(scripts.section, reconfigure)
    await look(one, state, STANDBY)
    await scripts.said(1)
    await one.reconfigured(scripts.section, reconfigure)
    assert await scripts.said(2) == ["on_start replica demo", "on_reload replica demo"]
    await one.reconfigured(Section(), reconfigure)
    await look(one, state, STOPPED)
    await one.close()
    assert len(scripts.lines()) == 2
    assert len(read) == 3


async def test_a_new_one_kills_the_old_one_and_its_children(tmp_path: Path, watch: Watch) -> None:
    pids = tmp_path / "pids"
    then = f'[ "$2" = on_stop ] || {{ sleep 600 & echo "$$ $!" > {pids}; wait; }}'
    scripts, state = Scripts(tmp_path, then), standby()
    one = watch(state, scripts)
    await look(one, state, STANDBY)

    async def waits() -> bool:
        return pids.exists() and pids.read_text().endswith("\n")

    await pg.eventually("it waits", waits)
    await look(one, state, STOPPED)
    assert await scripts.said(2) == ["on_start replica demo", "on_stop replica demo"]

    async def gone() -> bool:
        return not any(is_running(int(pid)) for pid in pids.read_text().split())

    await pg.eventually("both are gone", gone)


def is_running(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(") ")[2][0] != "Z"


async def test_what_goes_wrong_is_logged(
    tmp_path: Path,
    watch: Watch,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(callbacks, "TIME_LIMIT", 0.2)
    scripts, state = Scripts(tmp_path, '[ "$2" = on_stop ] && exit 3; exec sleep 600'), standby()
    one = watch(state, scripts)

    async def logged(text: str) -> bool:
        return text in caplog.text

    with caplog.at_level(logging.WARNING):
        await look(one, state, STANDBY)
        await pg.eventually("too long", lambda: logged("callback on_start: ended after 0.2 s"))
        await look(one, state, STOPPED)
        await pg.eventually("its code", lambda: logged(f"{scripts.file} ended with code 3"))
        scripts.file.unlink()
        await look(one, state, STANDBY)
        await pg.eventually("none", lambda: logged(f"cannot run {scripts.file}: No such file"))


async def test_the_agents_end_is_told_and_a_script_may_end(tmp_path: Path, watch: Watch) -> None:
    scripts, state = Scripts(tmp_path), standby()
    one = watch(state, scripts)
    await look(one, state, STANDBY)
    await scripts.said(1)
    state.postgres = STOPPED
    await one.close()
    assert scripts.lines() == ["on_start replica demo", "on_stop replica demo"]


async def test_an_agent_that_leaves_postgresql_running_does_not_wait(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "LAST_LIMIT", 600.0)
    scripts, state = Scripts(tmp_path, "exec sleep 600"), primary()
    one = watch(state, scripts)
    await look(one, state, PRIMARY)
    await scripts.said(1)
    async with asyncio.timeout(10):
        await one.close()


async def test_the_agents_end_does_not_wait_for_ever(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "LAST_LIMIT", 0.1)
    scripts, state = Scripts(tmp_path, "exec sleep 600"), standby()
    one = watch(state, scripts)
    await look(one, state, STANDBY)
    await scripts.said(1)
    state.postgres = STOPPED
    async with asyncio.timeout(10):
        await one.close()

    async def gone() -> bool:
        return not any(is_child_sleep(int(p)) for p in os.listdir("/proc") if p.isdigit())

    await pg.eventually("it is gone", gone)


def is_child_sleep(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        command = Path(f"/proc/{pid}/comm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(words[1]) == os.getpid() and command == "sleep\n" and words[0] != "Z"
