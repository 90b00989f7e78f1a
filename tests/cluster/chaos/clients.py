"""The clients of one workload, running beside the plain inserts of every round."""

import asyncio
import random
from typing import Any

import psycopg
from psycopg import AsyncConnection

from tests.cluster.chaos.cluster import ChaosCluster
from tests.cluster.checkers import progress
from tests.cluster.workloads import WORKLOADS, Connect, Workload

NONE = "none"
_STOP_S = 30.0


async def connect(dsn: str) -> AsyncConnection[Any]:
    """Return a session in autocommit mode."""
    return await AsyncConnection.connect(dsn, autocommit=True, connect_timeout=10)


class Clients:
    """Clients of a workload by its name; of `none`, nobody. They go through either entry point."""

    def __init__(self, cluster: ChaosCluster, name: str, rng: random.Random) -> None:
        self._cluster = cluster
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._workload: Workload | None = None
        if name != NONE:
            direct = {member: self._to(member) for member in cluster.names}
            read_write, read_only = self._through(False, rng), self._through(True, rng)
            self._workload = WORKLOADS[name](read_write, read_only, rng, direct)

    def _through(self, read_only: bool, rng: random.Random) -> Connect:
        entries = list(self._cluster.entries(read_only).values())
        return lambda: connect(rng.choice(entries))

    def _to(self, member: str) -> Connect:
        return lambda: connect(self._cluster.direct(member))

    async def start(self) -> None:
        """Set up what they work on, and let them work."""
        if self._workload is not None:
            await self._workload.setup()
            self._task = asyncio.create_task(self._workload.run(self._stop))

    async def stop(self) -> None:
        """Let them end."""
        self._stop.set()
        if self._task is not None:
            await asyncio.wait_for(self._task, _STOP_S)

    def progress(self, healed_at: float, within: float) -> list[str]:
        """Return a violation where none of them got on within so many seconds of healing."""
        if self._workload is None:
            return []
        return progress(self._workload.acked_times, healed_at, within)

    async def finish(self) -> list[str]:
        """Return the violations, once the cluster is whole."""
        return await self._workload.finish(self._to_primary) if self._workload else []

    async def _to_primary(self) -> AsyncConnection[Any]:
        best = (await self._cluster.statuses()).best or {}
        if best.get("primary") is None:
            raise psycopg.OperationalError("no primary is known")
        return await connect(self._cluster.direct(str(best["primary"])))

    @property
    def unknown(self) -> int:
        """How many operations are in doubt."""
        return self._workload.unknown if self._workload else 0

    @property
    def stale(self) -> int:
        """How many reads were stale, and lawfully so."""
        return len(self._workload.stale) if self._workload else 0

    @property
    def acknowledged(self) -> int:
        """How many operations were acknowledged."""
        return len(self._workload.acked_times) if self._workload else 0
