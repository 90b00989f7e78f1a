"""One round: clients, a nemesis or two, healing, and everything that must hold afterwards."""

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

from tests.cluster.chaos.clients import Clients, connect
from tests.cluster.chaos.cluster import ChaosCluster
from tests.cluster.chaos.links import Partition
from tests.cluster.chaos.machines import AgentKilledAt, Operator
from tests.cluster.chaos.nemesis import AGENT_START_S, Nemesis
from tests.cluster.checkers import Attempt, late_acknowledgements, lost_or_repeated, shared_terms
from tests.cluster.writers import CREATE, ENTRY, TABLE, Pace, Writers

HEALED_WITHIN_S = 2.0
REDUNDANT_WITHIN_S = 60.0
_GIVE_UP_S = 60.0
_PACE = Pace(rate=40.0, connect_timeout=1.5, query_timeout=1.0)
_ENOUGH = 20
_LOOK_EVERY_S = 0.1
_POINT_WITHIN_S = 8.0


@dataclass(slots=True)
class Round:
    """What became of one; times in seconds. `outages`: the longest silence at each entry point."""

    nemeses: list[str]
    workload: str
    dcs: str
    told: str = ""
    point: str = ""
    outages: dict[str, float] = field(default_factory=dict[str, float])
    resumed_s: float = 0.0
    redundant_s: float = 0.0
    acknowledged: int = 0
    unknown: int = 0
    stale: int = 0
    violations: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class Player:
    """Plays rounds on one cluster; what was written in earlier ones must still be there."""

    cluster: ChaosCluster
    rng: random.Random
    history: list[Attempt] = field(default_factory=list[Attempt])
    _next_number: int = 0
    # Threads of its own: they have to be on this cluster's client host.
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def close(self) -> None:
        """End its threads."""
        self._threads.shutdown()

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def play(self, kinds: list[type[Nemesis]], workload: str) -> Round:
        """Play one round. Raises AssertionError where the cluster does not come back."""
        found = Round([kind.name for kind in kinds], workload, self.cluster.settings.dcs)
        primary = await self.cluster.wait_redundant(REDUNDANT_WITHIN_S)
        await self._make_table()
        writers = Writers(
            self.cluster.with_password(host="127.0.0.1", port=6432),
            {n: self.cluster.direct(n) for n in self.cluster.names},
            others=self.cluster.other_entries(),
            first_number=self._next_number,
            through_entry=2,
            pace=_PACE,
        )
        self._next_number = writers.next_number
        clients = Clients(self.cluster, workload, self.rng)
        await clients.start()
        try:
            with writers:
                await self._under_fire(found, kinds, primary, writers, clients)
        finally:
            self.history += writers.history
            await clients.stop()
        await self.cluster.wait_redundant(REDUNDANT_WITHIN_S)
        found.violations += await clients.finish()
        found.violations += await self._violations()
        found.unknown = clients.unknown + sum(a.outcome == "unknown" for a in writers.history)
        found.stale = clients.stale
        found.acknowledged = sum(a.outcome == "ok" for a in writers.history) + clients.acknowledged
        return found

    async def _under_fire(
        self,
        found: Round,
        kinds: list[type[Nemesis]],
        primary: str,
        writers: Writers,
        clients: Clients,
    ) -> None:
        await self._written(writers, time.monotonic(), _ENOUGH, _GIVE_UP_S)
        struck_at = time.monotonic()
        nemeses: list[Nemesis] = []
        try:
            for kind in kinds:
                nemeses.append(kind(self.cluster, self.rng, primary))
                await self._in_thread(nemeses[-1].strike)
                await self._pass(self.rng.uniform(0, 1))
            await self._pass(self.rng.uniform(1, 7))
            await self._wait_for_points(nemeses)
        finally:
            found.told = "; ".join(nemesis.told for nemesis in nemeses)
            for nemesis in reversed(nemeses):
                await self._in_thread(nemesis.heal)
        healed = time.monotonic()
        whole = asyncio.create_task(self._wait_whole())
        allowed = HEALED_WITHIN_S + _allowance(kinds)
        await self._written(writers, healed, 1, _GIVE_UP_S)
        found.resumed_s = time.monotonic() - healed
        await self._pass(max(0.0, HEALED_WITHIN_S - found.resumed_s) + 0.5)
        found.violations += clients.progress(healed, allowed)
        if found.resumed_s > allowed:
            found.violations.append(
                f"writes were acknowledged again {found.resumed_s:.1f} s after healing, "
                f"expected within {allowed:g} s"
            )
        for entry in (ENTRY, *self.cluster.other_entries()):
            found.outages[entry] = longest_silence(writers.history, entry, struck_at)
        await self._in_thread(lambda: _end(nemeses, found))
        found.redundant_s = await whole - healed

    async def _wait_for_points(self, nemeses: list[Nemesis]) -> None:
        """A rule changes only when the old primary is back, which may take a while."""
        deadline = time.monotonic() + _POINT_WITHIN_S
        for nemesis in nemeses:
            if isinstance(nemesis, AgentKilledAt):
                while nemesis.is_due() and time.monotonic() < deadline:
                    await self._pass(_LOOK_EVERY_S)

    async def _wait_whole(self) -> float:
        await self.cluster.wait_redundant(REDUNDANT_WITHIN_S)
        return time.monotonic()

    async def _written(self, writers: Writers, since: float, count: int, timeout: float) -> None:
        entries = (ENTRY, *self.cluster.other_entries())
        deadline = time.monotonic() + timeout
        while any(writers.acknowledged_since(since, entry) < count for entry in entries):
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing was acknowledged for {timeout:g} s after healing")
            await self._pass(0.05)

    async def _pass(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.cluster.services.look()
            await asyncio.sleep(min(left, _LOOK_EVERY_S))

    async def _make_table(self) -> None:
        async with await connect(self.cluster.dsn) as conn:
            await conn.execute(CREATE.encode())

    async def _violations(self) -> list[str]:
        entries = (ENTRY, *self.cluster.other_entries())
        found = late_acknowledgements(self.history) + shared_terms(self.history, *entries)
        async with await connect(self.cluster.dsn) as conn:
            row = await (await conn.execute("SELECT pg_current_wal_lsn()::text")).fetchone()
        assert row
        for name in self.cluster.names:
            keys = await self._keys(name, str(row[0]))
            found += [f"{name}: {text}" for text in lost_or_repeated(self.history, keys)]
        return found

    async def _keys(self, name: str, lsn: str) -> list[int]:
        """Return the keys on a member, once it has replayed up to `lsn`."""
        query = "SELECT NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= %s::pg_lsn"
        deadline = time.monotonic() + 20
        async with await connect(self.cluster.direct(name)) as conn:
            while await (await conn.execute(query, (lsn,))).fetchone() != (True,):
                assert time.monotonic() < deadline, f"{name} does not replay up to {lsn}"
                await asyncio.sleep(0.05)
            cursor = await conn.execute(f"SELECT key FROM {TABLE}".encode())
            return [int(key) for (key,) in await cursor.fetchall()]


def _allowance(kinds: list[type[Nemesis]]) -> float:
    """Where two partitions leave nobody to elect, the primary was stopped by its guard as well."""
    twice = sum(issubclass(kind, Partition) for kind in kinds) > 1
    return max(AGENT_START_S if twice else 0.0, *(kind.allowance_s for kind in kinds))


def _end(nemeses: list[Nemesis], found: Round) -> None:
    """Wait for what goes on after healing, and note what became of it."""
    for nemesis in nemeses:
        if isinstance(nemesis, Operator):
            found.told += f" ({nemesis.finish()})"
        if isinstance(nemesis, AgentKilledAt) and (who := nemesis.died()):
            found.point = nemesis.point
            found.told += f" ({who})"


def longest_silence(history: list[Attempt], path: str, since: float) -> float:
    """Return the longest time without an acknowledgement, from a little before `since` on."""
    ends = sorted(a.end for a in history if a.path == path and a.outcome == "ok")
    before = [end for end in ends if end < since][-1:]
    times = before + [end for end in ends if end >= since]
    return max((b - a for a, b in pairwise(times)), default=0.0)
