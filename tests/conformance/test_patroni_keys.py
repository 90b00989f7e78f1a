"""Patroni's keys on real ZooKeeper and etcd: who holds one, who may replace it, when it goes."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pgregent.adapters.dcs.etcd import EtcdDcs
from pgregent.adapters.dcs.zookeeper import ZookeeperDcs
from pgregent.core.errors import Unavailable
from pgregent.ports.dcs import CasDone
from pgregent.ports.patroni_keys import Found, Guard, PatroniKeys
from tests.conformance import etcd_servers
from tests.conformance.test_dcs import STORES

Store = EtcdDcs | ZookeeperDcs
Connect = Callable[[], Awaitable[Store]]
LEADER = "/service/demo/leader"
REGISTER = "/service/demo/pgregent/register"
TTL_S = 2
GONE_S = 15.0


@pytest.fixture(params=["etcd", "zookeeper"])
async def connect(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Connect]:
    clients: list[Any] = []
    async with STORES[request.param](tmp_path) as connect_one:

        async def connect_and_keep() -> Store:
            clients.append(await connect_one())
            return clients[-1]

        yield connect_and_keep
        for client in clients:
            await client.close()


async def one(keys: PatroniKeys, key: str = LEADER) -> Found | None:
    return (await keys.read([key])).get(key)


async def there(keys: PatroniKeys, key: str = LEADER) -> Found:
    found = await one(keys, key)
    assert found is not None
    return found


async def put(keys: PatroniKeys, key: str, value: bytes, *, ephemeral: bool = False) -> None:
    """Put it; what leads there may have to be made first."""
    found = await one(keys, key)
    if not await keys.put(key, value, found, ephemeral=ephemeral):
        assert await keys.put(key, value, found, ephemeral=ephemeral)


async def until_gone(keys: PatroniKeys, key: str = LEADER) -> None:
    deadline = time.monotonic() + GONE_S
    while await one(keys, key) is not None:
        assert time.monotonic() < deadline, f"{key} is still there after {GONE_S:g} s"
        await asyncio.sleep(0.1)


async def test_a_plain_key_is_replaced_by_its_version(connect: Connect) -> None:
    dcs = await connect()
    keys, key = dcs.patroni_keys(TTL_S), "/service/demo/sync"
    await put(keys, key, b"one")
    old = await there(keys, key)
    assert (old.value, old.held) == (b"one", False)
    assert await keys.put(key, b"two", old)
    assert not await keys.put(key, b"three", old), "it has changed since"
    assert not await keys.put(key, b"three", None), "it is there"
    assert not await keys.remove(key, old)
    new = await there(keys, key)
    assert new.value == b"two"
    assert await keys.remove(key, new)
    assert await one(keys, key) is None
    assert not await keys.remove(key, new)
    assert not await keys.put(key, b"three", new), "it was removed"


async def test_what_an_agent_holds_goes_with_it(connect: Connect) -> None:
    dcs, other = await connect(), (await connect()).patroni_keys(TTL_S)
    keys = dcs.patroni_keys(TTL_S)
    await put(keys, LEADER, b"n1", ephemeral=True)
    await put(keys, "/service/demo/history", b"[]")
    # Longer than it would be there if nobody kept it alive.
    for _ in range(4 * TTL_S):
        assert (await there(keys)).held
        await asyncio.sleep(0.5)
    assert not (await there(other)).held
    await dcs.close()
    await until_gone(other)
    assert (await there(other, "/service/demo/history")).value == b"[]"


async def test_the_old_holder_cannot_touch_the_new_ones_key(connect: Connect) -> None:
    old, new = [(await connect()).patroni_keys(TTL_S) for _ in range(2)]
    await put(old, LEADER, b"n1", ephemeral=True)
    for _ in range(2):
        before = await there(old)
        assert await new.put(LEADER, b"n2", await there(new), ephemeral=True)
        assert not await old.remove(LEADER, before)
        assert not await old.put(LEADER, b"n1", before, ephemeral=True)
        found = await there(new)
        assert (found.value, found.held) == (b"n2", True)
        old, new = new, old
    assert await new.put(LEADER, b"n2 again", await there(new), ephemeral=True)


async def test_only_while_the_register_is_the_one_that_was_read(connect: Connect) -> None:
    dcs, other = await connect(), await connect()
    keys = dcs.patroni_keys(TTL_S)
    stored = await dcs.cas(REGISTER, 0, b"n1 is in office")
    assert isinstance(stored, CasDone)
    version = (await dcs.read(REGISTER))[REGISTER].version
    guard = Guard(REGISTER, version)
    assert await keys.put(LEADER, b"n1", None, ephemeral=True, guard=guard)
    await other.read(REGISTER)
    changed = await other.cas(REGISTER, (await other.read(REGISTER))[REGISTER].version, b"n2 is")
    assert isinstance(changed, CasDone)
    found = await there(keys)
    assert not await keys.put(LEADER, b"late", found, ephemeral=True, guard=guard)
    assert (await there(keys)).value == b"n1"
    unread = Guard(REGISTER, changed.version + 1)
    assert not await keys.put(LEADER, b"late", found, ephemeral=True, guard=unread)


async def test_held_again_after_the_session_was_lost(connect: Connect) -> None:
    dcs, other = await connect(), (await connect()).patroni_keys(TTL_S)
    keys = dcs.patroni_keys(TTL_S)
    await put(keys, LEADER, b"n1", ephemeral=True)
    if isinstance(dcs, EtcdDcs):
        server = etcd_servers.shared()
        for lease in server.ask("lease/leases", {})["leases"]:
            server.ask("lease/revoke", {"ID": lease["ID"]})
        # It learns of that only by trying.
        assert not await keys.put(LEADER, b"n1", None, ephemeral=True)
    else:
        link = dcs._link  # pyright: ignore
        assert link is not None
        link.end("cut by the test")
        deadline = time.monotonic() + GONE_S
        while dcs._link is link or dcs._link is None:  # pyright: ignore
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert not (await there(keys)).held, "the lost session's"
    await put(keys, LEADER, b"n1", ephemeral=True)
    assert (await there(keys)).held
    assert (await there(other)).value == b"n1"


async def test_a_dcs_that_is_away(connect: Connect) -> None:
    dcs = await connect()
    keys = dcs.patroni_keys(TTL_S)
    await dcs.close()
    with pytest.raises(Unavailable):
        await keys.read([LEADER])
    with pytest.raises(Unavailable):
        await keys.put(LEADER, b"n1", None, ephemeral=True)
    with pytest.raises(Unavailable):
        await keys.remove(LEADER, Found(b"n1", 1, True))
