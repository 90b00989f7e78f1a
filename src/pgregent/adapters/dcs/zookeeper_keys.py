"""Patroni's keys in ZooKeeper: plain znodes, the ephemeral ones owned by this agent's session."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any

from kazoo.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
    BadVersionError,
    NodeExistsError,
    NoNodeError,
)

from pgregent.adapters.dcs.zookeeper_call import Call, Unsure, creation, done, parents, parts
from pgregent.adapters.dcs.zookeeper_link import Answer, Client, Request
from pgregent.adapters.dcs.zookeeper_versions import Known, Versions
from pgregent.adapters.dcs.zookeeper_watch import join
from pgregent.core.errors import Unavailable
from pgregent.ports.patroni_keys import Found, Guard

_CHANGED = BadVersionError | NodeExistsError | NoNodeError


class ZookeeperKeys:
    """On the connection of a ZookeeperDcs. `call` begins a call there, `versions` are its own."""

    def __init__(
        self, call: Callable[[], AbstractContextManager[Call]], versions: Versions
    ) -> None:
        self._call = call
        self._versions = versions

    async def read(self, keys: Collection[str]) -> dict[str, Found]:
        found: dict[str, Found] = {}
        with self._call() as call:
            answers = await self._answers(call, *(_data(key) for key in keys))
            for key, answer in zip(keys, answers, strict=True):
                if not isinstance(answer, NoNodeError):
                    value, stat = done(answer, key)
                    held = stat.ephemeralOwner == call.link.session
                    found[key] = Found(value or b"", stat.version, held)
        return found

    async def put(
        self,
        key: str,
        value: bytes,
        found: Found | None,
        *,
        ephemeral: bool = False,
        guard: Guard | None = None,
    ) -> bool:
        with self._call() as call:
            known = self._versions.known(call.link, guard.key, guard.version) if guard else None
            if guard and (known is None or known.mark is None):
                return False

            def request(client: Client) -> Any:
                transaction = client.transaction()
                if guard and known:
                    _check(transaction, guard.key, known)
                _write(transaction, key, value, found, ephemeral)
                return transaction.commit_async()

            if await self._is_done(call, key, request):
                return True
            if found is None:
                # What leads there is perhaps not there yet: it will be for the next try.
                await self._answers(call, *(creation(path, None) for path in parents(key)))
            return False

    async def remove(self, key: str, found: Found) -> bool:
        with self._call() as call:
            return await self._is_done(call, key, lambda c: c.delete_async(key, found.version))

    async def _is_done(self, call: Call, key: str, request: Request) -> bool:
        """Whether it was; False where something had changed. Raises Unavailable."""
        (answer,) = await self._answers(call, request)
        for part in parts(answer):
            if isinstance(part, _CHANGED):
                return False
            done(part, key)
        return True

    async def _answers(self, call: Call, *requests: Request) -> list[Answer]:
        try:
            return await call.answers(*requests)
        except Unsure as error:
            raise Unavailable("dcs", str(error)) from None


def _data(key: str) -> Request:
    return lambda client: client.get_async(key)


def _check(transaction: Any, key: str, known: Known) -> None:
    transaction.check(join(key, str(known.mark)), -1)
    transaction.check(key, known.data_version)


def _write(transaction: Any, key: str, value: bytes, found: Found | None, ephemeral: bool) -> None:
    if found is None:
        transaction.create(key, value, ephemeral=ephemeral)
    elif found.held or not ephemeral:
        transaction.set_data(key, value, found.version)
    else:
        # A znode cannot change its owner.
        transaction.delete(key, found.version)
        transaction.create(key, value, ephemeral=True)
        if found.version == 0:
            # Its versions start again at 0: who held the one before must not take it for that.
            transaction.set_data(key, value, 0)
