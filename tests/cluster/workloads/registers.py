"""A register per key: compare-and-set, and reads at the read-write entry point."""

import asyncio
from collections.abc import Mapping, Sequence
from random import Random

from tests.cluster.checkers import CompareAndSet, Read, not_linearizable, stale_reads
from tests.cluster.workloads.client import Client
from tests.cluster.workloads.session import Connect, Session
from tests.cluster.workloads.workload import (
    LEASE_ALLOWED_S,
    PATIENCE,
    Turn,
    Work,
    Workload,
    final_moment,
)

_OPS_PER_KEY = 60
_KEYS_AT_ONCE = 3
_FINAL = -1


class Registers(Workload):
    """Each key is linearizable; a cut-off primary may show old values for as long as its lease.

    Reads that only the lease makes lawful are told in `stale`.
    """

    def __init__(
        self,
        connect_rw: Connect,
        connect_ro: Connect,
        random: Random,
        direct: Mapping[str, Connect] | None = None,
    ) -> None:
        super().__init__(connect_rw, connect_ro, random, direct)
        self.table = f"chaos_registers_{self.suffix}"
        self.ops: list[Read | CompareAndSet] = []
        self._begun = 0
        self._last_value = 0
        self._last_seen: dict[int, int] = {}

    @property
    def history(self) -> Sequence[Read | CompareAndSet]:
        """Return the operations."""
        return self.ops

    @property
    def writes(self) -> Sequence[Read | CompareAndSet]:
        """Return the operations whose COMMIT had to be acknowledged."""
        return [op for op in self.ops if isinstance(op, CompareAndSet) or op.locked]

    async def prepare(self, session: Session) -> None:
        await session.query(
            f"CREATE TABLE IF NOT EXISTS {self.table} (key int PRIMARY KEY, value bigint NOT NULL)"
        )

    def clients(self, stop: asyncio.Event) -> Sequence[Work]:
        return [
            self.repeat(self.connect_rw, patience, stop, self._turn(number))
            for number, patience in enumerate((*PATIENCE, PATIENCE[0]))
        ]

    def _turn(self, number: int) -> Turn:
        async def turn(client: Client) -> bool:
            # Few operations per key: the search for their order stays short.
            generation = self._begun // (_OPS_PER_KEY * _KEYS_AT_ONCE)
            key = generation * _KEYS_AT_ONCE + self.random.randrange(_KEYS_AT_ONCE)
            self._begun += 1
            if self.random.random() < 0.5:
                return await self._read(client, number, key)
            return await self._compare_and_set(client, number, key)

        return turn

    async def _read(self, client: Client, number: int, key: int) -> bool:
        done = await client.select(f"SELECT value FROM {self.table} WHERE key = %s", key)
        value = int(done.value[0][0]) if done.value else 0
        self.ops.append(Read(client=number, key=key, value=value, **done.facts))
        if done.outcome == "ok":
            self._last_seen[key] = value
        return done.outcome == "ok"

    async def _compare_and_set(self, client: Client, number: int, key: int) -> bool:
        expected = self._last_seen.get(key, 0)
        self._last_value += 1
        new = self._last_value

        async def body(session: Session) -> int:
            await session.query(
                f"INSERT INTO {self.table} VALUES (%s, 0) ON CONFLICT DO NOTHING", key
            )
            query = f"SELECT value FROM {self.table} WHERE key = %s FOR UPDATE"
            ((value,),) = await session.query(query, key)
            if value == expected:
                update = f"UPDATE {self.table} SET value = %s WHERE key = %s"
                await session.query(update, new, key)
            return int(value)

        done = await client.transact("READ COMMITTED", body)
        if done.value is None or done.value == expected:
            op = CompareAndSet(client=number, key=key, expected=expected, new=new, **done.facts)
        else:
            op = Read(client=number, key=key, value=done.value, locked=True, **done.facts)
        self.ops.append(op)
        if done.outcome == "ok":
            self._last_seen[key] = new if done.value == expected else int(done.value or 0)
        return done.outcome == "ok"

    async def verdict(self, session: Session) -> list[str]:
        rows = dict(await session.query(f"SELECT key, value FROM {self.table}"))
        facts = final_moment(session)
        final = [
            Read(client=_FINAL, key=key, value=int(rows.get(key, 0)), locked=True, **facts)
            for key in {op.key for op in self.ops}
        ]
        plain = [op for op in self.ops if isinstance(op, Read) and not op.locked]
        self.stale, found = stale_reads(plain, self.writes, LEASE_ALLOWED_S)
        found += not_linearizable([*self.ops, *final], stale_s=LEASE_ALLOWED_S)
        if not found:
            self.stale += not_linearizable([*self.ops, *final])
        return found
