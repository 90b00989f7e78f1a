"""Lists: serializable transactions that append to some and read others."""

import asyncio
from collections.abc import Mapping, Sequence
from random import Random

from tests.cluster.checkers import Append, ReadList, Transaction, not_serializable
from tests.cluster.workloads.client import Client
from tests.cluster.workloads.session import Connect, Session
from tests.cluster.workloads.workload import DIRECT, PATIENCE, Turn, Work, Workload

_APPENDS_PER_KEY = 24
_KEYS_AT_ONCE = 4
_MOST_STEPS = 4
Step = Append | ReadList


class Appends(Workload):
    """Serializable on the primary. What a standby shows is there at the end, or in doubt."""

    def __init__(
        self,
        connect_rw: Connect,
        connect_ro: Connect,
        random: Random,
        direct: Mapping[str, Connect] | None = None,
    ) -> None:
        super().__init__(connect_rw, connect_ro, random, direct)
        self.table = f"chaos_lists_{self.suffix}"
        self.transactions: list[Transaction] = []
        self._last_value = 0

    @property
    def history(self) -> Sequence[Transaction]:
        """Return the transactions."""
        return self.transactions

    @property
    def writes(self) -> Sequence[Transaction]:
        """Return the transactions that appended."""
        return [txn for txn in self.transactions if txn.appends()]

    async def prepare(self, session: Session) -> None:
        await session.query(
            f"CREATE TABLE IF NOT EXISTS {self.table} (key int PRIMARY KEY, items int[] NOT NULL)"
        )

    def clients(self, stop: asyncio.Event) -> Sequence[Work]:
        found = [
            self.repeat(self.connect_rw, patience, stop, self._turn(number))
            for number, patience in enumerate((*PATIENCE, PATIENCE[0]))
        ]
        look = self._look(len(found))
        return [*found, self.repeat(self.connect_ro, DIRECT, stop, look, standby=True)]

    def _keys(self) -> range:
        """Return the keys in use: few at once for conflicts, new ones soon for short lists."""
        generation = self._last_value // (_APPENDS_PER_KEY * _KEYS_AT_ONCE)
        return range(generation * _KEYS_AT_ONCE, (generation + 1) * _KEYS_AT_ONCE)

    def _turn(self, number: int) -> Turn:
        async def turn(client: Client) -> bool:
            plan = [self._plan() for _ in range(self.random.randint(1, _MOST_STEPS))]
            steps: list[Step] = []

            async def body(session: Session) -> None:
                for step in plan:
                    steps.append(await self._step(session, step))

            done = await client.transact("SERIALIZABLE", body)
            # What was not reached was not appended, but nor may anybody ever see it.
            steps += [step for step in plan[len(steps) :] if isinstance(step, Append)]
            txn = Transaction(client=number, steps=tuple(steps), **done.facts)
            self.transactions.append(txn)
            return done.outcome == "ok"

        return turn

    def _plan(self) -> Step:
        key = self.random.choice(self._keys())
        if self.random.random() < 0.5:
            return ReadList(key, ())
        self._last_value += 1
        return Append(key, self._last_value)

    async def _step(self, session: Session, step: Step) -> Step:
        if isinstance(step, ReadList):
            query = f"SELECT items FROM {self.table} WHERE key = %s"
            rows = await session.query(query, step.key)
            return ReadList(step.key, tuple(rows[0][0]) if rows else ())
        await session.query(
            f"INSERT INTO {self.table} AS t VALUES (%s, ARRAY[%s::int])"
            " ON CONFLICT (key) DO UPDATE SET items = t.items || excluded.items",
            step.key,
            step.value,
        )
        return step

    def _look(self, number: int) -> Turn:
        async def turn(client: Client) -> bool:
            keys = self._keys()
            done = await client.select(
                f"SELECT key, items FROM {self.table} WHERE key BETWEEN %s AND %s",
                keys[0],
                keys[-1],
            )
            steps = tuple(ReadList(key, tuple(items)) for key, items in done.value or ())
            txn = Transaction(client=number, steps=steps, standby=True, **done.facts)
            self.transactions.append(txn)
            return done.outcome == "ok"

        return turn

    async def verdict(self, session: Session) -> list[str]:
        rows = await session.query(f"SELECT key, items FROM {self.table}")
        final = {int(key): tuple(items) for key, items in rows}
        return not_serializable(self.transactions, final)
