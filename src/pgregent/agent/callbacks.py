"""The operator's scripts, run when something has happened to PostgreSQL: Patroni's callbacks.

They are told, they decide nothing, and nothing waits for them. One runs at a time (on_reload beside
it): a new one kills it, with what it has started.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from pgregent.config.callbacks import Callbacks as Section
from pgregent.core.publish import serving
from pgregent.core.types import PgState
from pgregent.core.view import Restarting, State

log = logging.getLogger("pgregent")

LOOK_EVERY = 0.05
TIME_LIMIT = 300.0
LAST_LIMIT = 5.0
"""Seconds that a script gets when the agent ends."""
KILLED_LIMIT = 0.5


class Callbacks:
    """Looks at the state that the core keeps; `run` in a task of its own."""

    def __init__(self, state: State, scope: str, section: Section) -> None:
        self._state, self._scope, self._section = state, scope, section
        self._role = self._last = ""
        self._restarts = False
        self._changes, self._reloads = _Turn(), _Turn()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY)

    def look(self) -> None:
        """Run what the change since the last look is the occasion for."""
        before, now = self._role, _role(self._state)
        if self._state.restarting is Restarting.STARTING:
            # Next it is back, or it stopped after all.
            self._restarts = True
            return
        if now is None or (now == before and not self._restarts):
            return
        self._role = now
        restarted, self._restarts = self._restarts and now == before, False
        if not now:
            self._call(self._changes, "on_stop", before)
            return
        action = "on_role_change" if self._last not in ("", now) else "on_start"
        self._last = now
        self._call(self._changes, "on_restart" if restarted else action, now)

    async def reconfigured(
        self, section: Section, reconfigure: Callable[[], Awaitable[None]]
    ) -> None:
        """Have PostgreSQL read its configuration with `reconfigure`; the scripts are these now."""
        self._section = section
        await reconfigure()
        if self._role:
            self._call(self._reloads, "on_reload", self._role)

    async def close(self) -> None:
        """Tell of the end. A script gets 5 s more; none where PostgreSQL goes on, since the next
        agent has to take that over before its authority runs out."""
        self.look()
        limit = 0.0 if self._role else LAST_LIMIT
        await asyncio.gather(self._changes.close(limit), self._reloads.close(limit))

    def _call(self, turn: "_Turn", action: str, role: str) -> None:
        if words := self._section.commands.get(action):
            turn.take((*words, action, role, self._scope))


def _role(state: State) -> str | None:
    """What runs: "primary" (once it serves), "replica", "" for nothing; None: it is not clear."""
    match state.postgres.state:
        case PgState.STANDBY:
            return "replica"
        case PgState.PRIMARY if serving(state):
            return "primary"
        case PgState.STOPPED | PgState.ABSENT:
            return ""
        case _:
            return None


class _Turn:
    """One script at a time: the newest."""

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def take(self, argv: tuple[str, ...]) -> None:
        """Run it in the place of the one before."""
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._run(argv))

    async def close(self, limit: float) -> None:
        """Wait for the last one, and end it after `limit` seconds."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=limit)
            self._task.cancel()

    async def _run(self, argv: tuple[str, ...]) -> None:
        async with self._one_at_a_time:
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
                )
            except OSError as error:
                log.warning("callback %s: cannot run %s: %s", argv[-3], argv[0], error.strerror)
                return
            with contextlib.suppress(OSError):
                # What protects the agent from the OOM killer is not for scripts.
                Path(f"/proc/{process.pid}/oom_score_adj").write_text("0")
            try:
                async with asyncio.timeout(TIME_LIMIT):
                    code = await process.wait()
            except TimeoutError:
                log.warning("callback %s: ended after %g s: %s", argv[-3], TIME_LIMIT, argv[0])
                return
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    # One that waits for a disk dies when that answers.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(process.wait(), KILLED_LIMIT)
            if code:
                log.warning("callback %s: %s ended with code %d", argv[-3], argv[0], code)
