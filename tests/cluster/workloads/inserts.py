"""Unique inserts: client n inserts n:i once. Also straight to each node, where that is possible."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from random import Random

from tests.cluster.checkers import Attempt, lost_or_repeated, seen_and_gone
from tests.cluster.workloads.client import Client
from tests.cluster.workloads.session import Connect, Session
from tests.cluster.workloads.workload import DIRECT, PATIENCE, Turn, Work, Workload

ENTRY = "entry"
_PER_CLIENT = 10_000_000
_LOOK_BACK = 20


class Inserts(Workload):
    """Acknowledged: there once. In doubt: at most once. Failed, or seen nowhere: not at all."""

    def __init__(
        self,
        connect_rw: Connect,
        connect_ro: Connect,
        random: Random,
        direct: Mapping[str, Connect] | None = None,
    ) -> None:
        super().__init__(connect_rw, connect_ro, random, direct)
        self.table = f"chaos_inserts_{self.suffix}"
        self.attempts: list[Attempt] = []
        self.seen: set[int] = set()

    @property
    def history(self) -> Sequence[Attempt]:
        """Return the attempts."""
        return self.attempts

    @property
    def writes(self) -> Sequence[Attempt]:
        """Return the attempts."""
        return self.attempts

    @property
    def acked_times(self) -> list[float]:
        """Return when an insert through the entry point was acknowledged."""
        return sorted(a.end for a in self.attempts if a.outcome == "ok" and a.path == ENTRY)

    async def prepare(self, session: Session) -> None:
        # No index on the key: a row that is there twice must be seen, not refused.
        await session.query(f"CREATE TABLE IF NOT EXISTS {self.table} (key bigint NOT NULL)")

    def clients(self, stop: asyncio.Event) -> Sequence[Work]:
        found = [
            self.repeat(self.connect_rw, patience, stop, self._insert(number, ENTRY))
            for number, patience in enumerate(PATIENCE)
        ]
        found += [
            self.repeat(connect, DIRECT, stop, self._insert(number, name))
            for number, (name, connect) in enumerate(self.direct.items(), len(PATIENCE))
        ]
        return [*found, self.repeat(self.connect_ro, DIRECT, stop, self._look, standby=True)]

    def _insert(self, number: int, path: str) -> Turn:
        keys = itertools.count(number * _PER_CLIENT)

        async def turn(client: Client) -> bool:
            key = next(keys)

            async def body(session: Session) -> None:
                await session.query(f"INSERT INTO {self.table} VALUES (%s)", key)

            done = await client.transact("READ COMMITTED", body)
            self.attempts.append(Attempt(key, path, **done.facts))
            return done.outcome == "ok"

        return turn

    async def _look(self, client: Client) -> bool:
        # Where a row lies tells its age: the newest ones are those that may be lost.
        done = await client.select(
            f"SELECT key FROM {self.table} ORDER BY ctid DESC LIMIT {_LOOK_BACK}"
        )
        self.seen.update(key for (key,) in done.value or ())
        return done.outcome == "ok"

    async def verdict(self, session: Session) -> list[str]:
        keys = [int(key) for (key,) in await session.query(f"SELECT key FROM {self.table}")]
        found = lost_or_repeated(self.attempts, keys)
        return found + seen_and_gone(self.attempts, self.seen, keys)
