"""What a running agent takes of a changed configuration, and what it says of the rest."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from pydantic import BaseModel

from pgregent.config.dynamic import Dcs
from pgregent.config.load import Loaded
from pgregent.config.schema import AgentConfig
from pgregent.core.errors import Refused, Unavailable

log = logging.getLogger("pgregent")

PENDING_S = 10.0
"""Seconds between two looks for parameters that wait for a start of PostgreSQL."""
START_TIMEOUT_MIN = 5.0
"""Seconds that a server gets to answer at least, whatever primary_start_timeout says: an agent that
takes over a healthy one has to ask it first."""

_TAKEN = (
    *("log.", "tags.", "postgresql.parameters", "postgresql.pg_hba", "postgresql.pg_ident"),
    *("postgresql.custom_conf", "postgresql.basebackup", "postgresql.pg_ctl_timeout"),
    "postgresql.callbacks.",
    *("pgregent.suspect_after", "pgregent.lease", "pgregent.standby_grace"),
    *("restapi.authentication", "restapi.allowlist", "restapi.http_extra_headers"),
    *("restapi.allowlist_include_members", "restapi.https_extra_headers", "restapi.server_tokens"),
)
_NO_EFFECT = (
    *("bootstrap.", "watchdog.", "pgregent.hold_timeout", "ctl.authentication"),
    *("thread_", "restapi.thread_pool_size", "restapi.request_queue_size"),
    "postgresql.use_unix_socket_repl",
)
"""Of no effect on an agent that runs, or read by others."""

Pending = Mapping[str, tuple[str, str]]


class Server(Protocol):
    """The member's PostgreSQL. See adapters.postgres.server.LocalServer."""

    async def pending_restart(self) -> Pending:
        """What waits for a start. Raises Unavailable."""
        ...


class Prepare(Protocol):
    """See Hooks."""

    def __call__(
        self, config: AgentConfig, dynamic: Dcs, *, files: bool
    ) -> Awaitable[Callable[[], Awaitable[None]]]: ...


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a reload needs of the agent: `load` reads the file again; `prepare` raises Refused for
    what PostgreSQL would not start with, and what it returns has PostgreSQL use it (`files`: the
    files that the configuration names are read again, too); `take` gives
    the rest to core and API."""

    load: Callable[[], Loaded]
    prepare: Prepare
    take: Callable[[AgentConfig, Dcs], None]
    pending: Callable[[Pending], None]


class Reload:
    """One configuration in force. `file` and `change` may be called at any time."""

    def __init__(self, config: AgentConfig, dynamic: Dcs, server: Server, hooks: Hooks) -> None:
        self.config, self._dynamic = config, dynamic
        self._server, self._hooks = server, hooks
        self._one_at_a_time = asyncio.Lock()
        self._look = asyncio.Event()
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Have the file read again: SIGHUP, POST /reload."""
        self._asked.set()

    async def run(self) -> None:
        """Until cancelled: reload when asked, and look for what waits for a start."""
        await asyncio.gather(self._reload_when_asked(), self._look_for_pending())

    async def _reload_when_asked(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self.file()
            except (Refused, Unavailable):
                pass  # It is in the log.
            except Exception:
                log.exception("the configuration cannot be read again")

    async def file(self) -> tuple[str, ...]:
        """Read the file again; returns what there is to know of it, in sentences. Raises Refused
        for what is wrong: nothing changes then; and Unavailable. All of it is logged, too."""
        try:
            async with self._one_at_a_time:
                loaded = await asyncio.to_thread(self._hooks.load)
                later = await self._apply(loaded.config, self._dynamic, files=True)
        except (Refused, Unavailable) as error:
            log.error("the configuration stays as it was: %s", error)
            raise
        for warning in loaded.warnings:
            log.warning("%s", warning)
        log.info("the configuration was read again")
        return (*later, *loaded.warnings)

    async def change(self, dynamic: Dcs) -> None:
        """The dynamic configuration was changed. Raises Refused for parameters that PostgreSQL
        would not start with."""
        try:
            async with self._one_at_a_time:
                await self._apply(self.config, dynamic, files=False)
            log.info("the dynamic configuration was changed, and is in force")
        except Unavailable as error:
            log.error("PostgreSQL has not read the changed configuration: %s", error)

    async def _apply(self, config: AgentConfig, dynamic: Dcs, *, files: bool) -> list[str]:
        """Returns what is not used before the agent is started anew."""
        reconfigure = await self._hooks.prepare(config, dynamic, files=files)
        self._hooks.take(config, dynamic)
        changed = sorted(_changed(self.config, config))
        later = [f"{key} was changed: restart the agent to use it" for key in changed]
        for sentence in later:
            log.warning("%s", sentence)
        self.config, self._dynamic = config, dynamic
        await reconfigure()
        self._look.set()
        return later

    async def _look_for_pending(self) -> None:
        while True:
            self._look.clear()
            with contextlib.suppress(Unavailable, Refused):
                self._hooks.pending(await self._server.pending_restart())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), PENDING_S)
                # The postmaster and its children take a moment to read their files.
                await asyncio.sleep(0.5)


def _changed(before: AgentConfig, after: AgentConfig) -> set[str]:
    """The keys with other values that only an agent's start takes."""
    ours, theirs = dict(_leaves(before, "")), dict(_leaves(after, ""))
    keys = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    return {key for key in keys if not key.startswith((*_TAKEN, *_NO_EFFECT))}


def _leaves(section: BaseModel, around: str) -> Iterator[tuple[str, Any]]:
    for name in type(section).model_fields:
        value = cast(object, getattr(section, name))
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{around}{name}.")
        elif value is not None:
            yield f"{around}{name}", value
