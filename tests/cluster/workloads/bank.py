"""A bank: transfers between accounts, and people who add up all of them."""

import asyncio
from collections.abc import Mapping, Sequence
from random import Random

from tests.cluster.checkers import Balances, Entry, Transfer, wrong_sums
from tests.cluster.workloads.client import Client
from tests.cluster.workloads.session import Connect, Session
from tests.cluster.workloads.workload import DIRECT, PATIENCE, Turn, Work, Workload

_OPENING = dict.fromkeys(range(8), 100)
_ISOLATION = ("REPEATABLE READ", "SERIALIZABLE")


class Bank(Workload):
    """The sum never changes, on standbys neither; the ledger explains the balances at the end."""

    def __init__(
        self,
        connect_rw: Connect,
        connect_ro: Connect,
        random: Random,
        direct: Mapping[str, Connect] | None = None,
    ) -> None:
        super().__init__(connect_rw, connect_ro, random, direct)
        self.accounts = f"chaos_accounts_{self.suffix}"
        self.ledger = f"chaos_ledger_{self.suffix}"
        self.ops: list[Transfer | Balances] = []
        self._last_number = 0

    @property
    def history(self) -> Sequence[Transfer | Balances]:
        """Return transfers and reads."""
        return self.ops

    @property
    def writes(self) -> Sequence[Transfer]:
        """Return the transfers."""
        return [op for op in self.ops if isinstance(op, Transfer)]

    async def prepare(self, session: Session) -> None:
        await session.query(
            f"CREATE TABLE IF NOT EXISTS {self.accounts}"
            " (account int PRIMARY KEY, balance bigint NOT NULL)"
        )
        # No index on the number: an entry that is there twice must be seen, not refused.
        await session.query(
            f"CREATE TABLE IF NOT EXISTS {self.ledger}"
            " (number bigint NOT NULL, source int NOT NULL, target int NOT NULL,"
            " amount bigint NOT NULL)"
        )
        for account, balance in _OPENING.items():
            await session.query(
                f"INSERT INTO {self.accounts} VALUES (%s, %s) ON CONFLICT DO NOTHING",
                account,
                balance,
            )

    def clients(self, stop: asyncio.Event) -> Sequence[Work]:
        found = [
            self.repeat(self.connect_rw, patience, stop, self._turn(number))
            for number, patience in enumerate(PATIENCE)
        ]
        look = self._look(len(PATIENCE), standby=True)
        return [*found, self.repeat(self.connect_ro, DIRECT, stop, look, standby=True)]

    def _turn(self, number: int) -> Turn:
        look = self._look(number, standby=False)

        async def turn(client: Client) -> bool:
            if self.random.random() < 0.3:
                return await look(client)
            return await self._transfer(client, number)

        return turn

    def _look(self, number: int, standby: bool) -> Turn:
        async def turn(client: Client) -> bool:
            done = await client.select(f"SELECT account, balance FROM {self.accounts}")
            rows = tuple((int(account), int(balance)) for account, balance in done.value or ())
            op = Balances(client=number, balances=rows, standby=standby, **done.facts)
            self.ops.append(op)
            return done.outcome == "ok"

        return turn

    async def _transfer(self, client: Client, number: int) -> bool:
        source, target = self.random.sample(sorted(_OPENING), 2)
        self._last_number += 1
        entry = Entry(self._last_number, source, target, self.random.randint(1, 20))

        async def body(session: Session) -> bool:
            query = f"SELECT balance FROM {self.accounts} WHERE account = %s"
            ((there,),) = await session.query(query, source)
            if there < entry.amount:
                return False
            change = f"UPDATE {self.accounts} SET balance = balance + %s WHERE account = %s"
            await session.query(change, -entry.amount, source)
            await session.query(change, entry.amount, target)
            row = (entry.number, source, target, entry.amount)
            await session.query(f"INSERT INTO {self.ledger} VALUES (%s, %s, %s, %s)", *row)
            return True

        done = await client.transact(self.random.choice(_ISOLATION), body)
        if done.value is not False:
            self.ops.append(Transfer(client=number, entry=entry, **done.facts))
        return done.outcome == "ok"

    async def verdict(self, session: Session) -> list[str]:
        rows = await session.query(f"SELECT account, balance FROM {self.accounts}")
        closing = {int(account): int(balance) for account, balance in rows}
        query = f"SELECT number, source, target, amount FROM {self.ledger}"
        ledger = [Entry(*(int(field) for field in row)) for row in await session.query(query)]
        return wrong_sums(self.ops, _OPENING, closing, ledger)
