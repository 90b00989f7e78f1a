"""The simulator's DCS and the real ones: what a CAS, a read, a put and a watch can be relied on
for."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from pgregent.core.errors import Unavailable
from tests.conformance.fakes.stores import (
    Client,
    Fate,
    Store,
    View,
    etcd_store,
    fake_store,
    local_store,
    memory_store,
    zookeeper_store,
)

SEEDS = range(4)
SEEDS_OF_WHAT_CAN_HAPPEN = range(60)
Maker = Callable[[Path], AbstractAsyncContextManager[Store]]
FAKES: list[Maker] = [partial(fake_store, seed) for seed in SEEDS_OF_WHAT_CAN_HAPPEN]
REAL: dict[str, Maker] = {
    "memory": memory_store,
    "local": local_store,
    "zookeeper": zookeeper_store,
    "etcd": etcd_store,
}
MAKERS: dict[str, Maker] = {f"fake{seed}": FAKES[seed] for seed in SEEDS} | REAL
LOSING = {
    "fakes": FAKES,
    "memory": [memory_store],
    "zookeeper": [zookeeper_store],
    "etcd": [etcd_store],
}


def _of(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("store", names, indirect=True)


# The local one is a file: it is away where its disk is, and loses no reply on command.
with_a_network = _of(*(name for name in MAKERS if name != "local"))
every_store = _of(*MAKERS)


@pytest.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Store]:
    async with MAKERS[request.param](tmp_path) as made:
        yield made


async def version_of(client: Client) -> int:
    """What a member knows by a read of its own, as the CAS of an agent does."""
    return (await client.read()).version


async def created(client: Client, value: int) -> View:
    assert await client.cas(0, value) is True
    return await client.read()


@every_store
async def test_a_cas_needs_the_version_that_was_read(store: Store) -> None:
    one, two = await store.client("n1"), await store.client("n2")
    assert await one.read() == View(None, 0, {})
    assert await one.cas(7, 1) is False  # There is none with any version.
    first = await created(one, 1)
    assert first.register == 1
    assert await two.cas(0, 2) is False
    assert await two.cas(await version_of(two), 2) is True
    second = await two.read()
    assert (second.register, second.version > first.version) == (2, True)
    assert await one.cas(first.version, 3) is False
    assert await one.read() == second


@every_store
async def test_of_two_who_read_the_same_one_wins(store: Store) -> None:
    clients = [await store.client(f"n{n}") for n in range(3)]
    await created(clients[0], 0)
    for round_ in range(1, 4):
        versions = [await version_of(client) for client in clients]
        writers = list(zip(clients, versions, strict=True))
        writers = writers[round_ % 3 :] + writers[: round_ % 3]
        numbered = enumerate(writers)
        answers = [await client.cas(v, 10 * round_ + n) for n, (client, v) in numbered]
        assert answers == [True, False, False]
        assert [(await client.read()).register for client in clients] == [10 * round_] * 3


@every_store
async def test_a_read_shows_what_was_answered_before_it_was_asked(store: Store) -> None:
    one, two = await store.client("n1"), await store.client("n2")
    for value in range(1, 11):
        writer, reader = (one, two) if value % 2 else (two, one)
        assert await writer.cas(await version_of(writer), value) is True
        assert (await reader.read()).register == value


@every_store
async def test_a_member_key_is_its_own_and_read_with_the_register(store: Store) -> None:
    one, two, three = [await store.client(f"n{n}") for n in (1, 2, 3)]
    before = await created(one, 5)
    await one.put(1)
    await two.put(2)
    await one.put(3)
    assert await three.read() == View(5, before.version, {"n1": 3, "n2": 2})
    assert (await one.read()).members == {"n2": 2}
    assert await one.cas(before.version, 6) is True  # A put is not a change of the register.


@every_store
async def test_a_watch_tells_of_the_register_and_of_members(store: Store) -> None:
    one, two = await store.client("n1"), await store.client("n2")
    changed = await one.watch()
    await created(two, 1)
    await changed()
    await two.put(1)
    await changed()
    assert await one.cas(await version_of(one), 2) is True
    await changed()


@with_a_network
async def test_away_it_answers_nobody_and_keeps_what_it_had(store: Store) -> None:
    client = await store.client("n1")
    before = await created(client, 1)
    async with store.away():
        with pytest.raises(Unavailable):
            await client.read()
        with pytest.raises(Unavailable):
            assert await client.cas(before.version, 2) is None
            raise Unavailable("dcs", "unknown is right too while the loss is news")
    found = await client.read()
    assert found == before
    assert await client.cas(found.version, 3) is True


@every_store
async def test_emptied_it_has_no_register_and_takes_no_old_version(store: Store) -> None:
    client = await store.client("n1")
    version = 0
    for value in (1, 2, 3):
        assert await client.cas(version, value) is True
        version = await version_of(client)
    await client.put(1)
    changed = await client.watch()
    await store.empty()
    if store.kind != "local":  # It was emptied behind its back, by another program.
        await changed()
    assert await (await store.client("n2")).read() == View(None, 0, {})
    assert await client.cas(version, 4) is False
    assert (await created(client, 5)).register == 5
    assert await client.cas(version, 6) is False
    assert (await client.read()).register == 5


# A reply that was lost


async def can_happen(
    makers: list[Maker], folder: Path, scenario: Callable[[Store], Awaitable[bool]]
) -> bool:
    for make in makers:
        async with make(folder) as store:
            if await scenario(store):
                return True
    return False


@pytest.mark.parametrize("fate", list(Fate))
@pytest.mark.parametrize("makers", LOSING.values(), ids=LOSING)
async def test_a_lost_cas_can_land_at_once_or_later_or_never(
    makers: list[Maker], tmp_path: Path, fate: Fate
) -> None:
    async def scenario(store: Store) -> bool:
        one, two = await store.client("n1"), await store.client("n2")
        before = await created(one, 1)
        await store.lose_next_reply(one, fate)
        assert await one.cas(before.version, 2) is None
        early = (await two.read()).register
        await store.settle()
        late = (await two.read()).register
        return (early, late) == {
            Fate.NOW: (2, 2),
            Fate.LATER: (1, 2),
            Fate.NEVER: (1, 1),
        }[fate]

    assert await can_happen(makers, tmp_path, scenario)


@with_a_network
@pytest.mark.parametrize("fate", list(Fate))
async def test_a_lost_cas_is_settled_by_a_later_successful_one(store: Store, fate: Fate) -> None:
    one, two = await store.client("n1"), await store.client("n2")
    before = await created(one, 1)
    await store.lose_next_reply(one, fate)
    assert await one.cas(before.version, 2) is None
    found = await two.read()
    assert found.register in (1, 2)
    settled = await two.cas(found.version, 3)
    await store.settle()
    # Refused only if the lost one landed in between.
    assert (await two.read()).register == (3 if settled else 2)


@_of(*(name for name in MAKERS if name not in ("local", "memory")))
async def test_what_was_under_way_when_it_was_emptied_never_lands(store: Store) -> None:
    one, two = await store.client("n1"), await store.client("n2")
    await created(one, 1)
    await store.empty()
    await store.lose_next_reply(one, Fate.LATER)
    assert await one.cas(0, 2) is None  # It would fit an empty store.
    await store.empty()
    await store.settle()
    assert await two.read() == View(None, 0, {})
