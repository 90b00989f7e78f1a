"""The PostgreSQL port, real and simulated: what the simulator relies on is what PostgreSQL does."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

from pgregent.adapters.postgres import server as real
from pgregent.core.durability import standby_names
from pgregent.core.errors import Refused, Unavailable
from pgregent.core.types import PgState, Position
from tests.conformance import pg
from tests.conformance.trio import Trio, Write, any_of, fake_trio, label, real_trio

SEEDS = range(8)
NOBODY = standby_names()
Maker = Callable[[], AbstractAsyncContextManager[Trio]]
FAKES = [pytest.param(partial(fake_trio, seed), id=f"fake{seed}") for seed in SEEDS]
REAL = pytest.param(
    real_trio, id="real", marks=pytest.mark.skipif(not pg.installations(), reason="no PostgreSQL")
)


@pytest.fixture(params=[*FAKES, REAL])
async def trio(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Trio]:
    monkeypatch.setattr(real, "BARRIER_TIMEOUT", 0.5)
    make: Maker = request.param
    async with make() as made:
        yield made


async def streams(trio: Trio, name: str, of: str) -> bool:
    """Whether both sides say so, on the same timeline, and it has flushed all there is."""
    here, there = await trio.servers[name].observe(), await trio.servers[of].observe()
    assert there.state is PgState.PRIMARY and there.position is not None
    flushed = {w.application_name.lower(): w.flush_lsn for w in there.walsenders if w.streaming}
    return (
        (here.state, here.streaming) == (PgState.STANDBY, True)
        and here.upstream_timeline == there.position.timeline
        and here.position is not None
        and here.position.lsn >= there.position.lsn
        and flushed.get(label(name).lower(), 0) >= there.position.lsn
    )


async def start_standby(trio: Trio, name: str, of: str | None) -> None:
    upstream = trio.upstream(of) if of is not None else None
    await trio.servers[name].start(label(name), NOBODY, upstream, True, trio.deadline)
    if of is not None:
        await trio.eventually(f"{name} streams", lambda: streams(trio, name, of))


async def follow(trio: Trio, name: str, of: str) -> None:
    await trio.servers[name].follow(label(name), NOBODY, trio.upstream(of))
    await trio.eventually(f"{name} streams", lambda: streams(trio, name, of))


async def make_cluster(trio: Trio, *standbys: str) -> None:
    """The primary n1, and these that stream from it."""
    await trio.make_primary("n1")
    await trio.servers["n1"].keep_slots(standbys)
    for name in standbys:
        await trio.servers[name].clone(trio.upstream("n1"))
        await start_standby(trio, name, "n1")


async def acknowledged(write: Write) -> bool:
    return write.acked


async def position(trio: Trio, name: str) -> Position:
    """Where its log ends; waits until recovery knows."""

    async def known() -> Position | None:
        return (await trio.servers[name].observe()).position

    found = await trio.eventually(f"{name} knows where its log ends", known)
    assert found is not None
    return found


async def test_an_initialised_primary_is_cloned_and_followed(trio: Trio) -> None:
    n1, n2 = trio.servers["n1"], trio.servers["n2"]
    assert (await n1.observe()).state is PgState.ABSENT

    system_id = await n1.initdb()
    stopped = await n1.observe()
    assert (stopped.state, stopped.clean, stopped.system_id) == (PgState.STOPPED, True, system_id)
    assert (stopped.disk_timeline, stopped.newest_history) == (1, 1)

    await n1.start("", "", None, False, trio.deadline)
    await trio.prepare("n1")
    primary = await n1.observe()
    assert (primary.state, primary.names, primary.walsenders) == (PgState.PRIMARY, "", ())
    assert primary.position is not None and primary.position.timeline == 1
    assert primary.system_id == system_id and primary.answered_at > 0
    await n1.keep_slots(("n2",))

    await n2.clone(trio.upstream("n1"))
    cloned = await n2.observe()
    assert (cloned.state, cloned.clean, cloned.system_id) == (PgState.STOPPED, False, system_id)
    assert (cloned.disk_timeline, cloned.newest_history) == (1, 1)

    await start_standby(trio, "n2", None)
    sealed = await n2.observe()
    assert (sealed.state, sealed.streaming, sealed.walsenders) == (PgState.STANDBY, False, ())
    assert sealed.upstream_timeline == 0
    assert (await position(trio, "n2")).timeline == 1

    await follow(trio, "n2", "n1")
    following = await n2.observe()
    assert following.position is not None and following.position.timeline == 1
    assert (following.system_id, following.newest_history) == (system_id, 1)
    assert not following.replay_paused
    await n1.keep_slots(())  # One that is in use stays.
    assert await streams(trio, "n2", "n1")


async def test_a_clone_without_its_slot_does_not_stream(trio: Trio) -> None:
    await trio.make_primary("n1")
    await trio.servers["n2"].clone(trio.upstream("n1"))
    await start_standby(trio, "n2", None)
    await trio.servers["n2"].follow(label("n2"), NOBODY, trio.upstream("n1"))
    # Time enough for an attempt: an acknowledgement that needs it stays away.
    await trio.servers["n1"].apply_names(any_of("n2"), True)
    with pytest.raises(Unavailable):
        await trio.servers["n1"].barrier(any_of("n2"))

    async def idle() -> bool:
        # Each attempt shows as streaming for a moment, until the primary refuses it.
        return not (await trio.servers["n2"].observe()).streaming

    await trio.eventually("n2 does not stream", idle)

    await trio.servers["n1"].keep_slots(("n2",))
    await trio.eventually("n2 streams", lambda: streams(trio, "n2", "n1"))


async def test_a_commit_waits_for_a_sealed_standby_until_it_follows_again(trio: Trio) -> None:
    await make_cluster(trio, "n2")
    n1, n2 = trio.servers["n1"], trio.servers["n2"]
    await n1.apply_names(any_of("n2"), True)
    assert (await n1.observe()).names == any_of("n2")
    first = await trio.write("n1")
    await trio.eventually("it is acknowledged", lambda: acknowledged(first))

    await n2.seal(1, NOBODY)
    waiting = await trio.write("n1")
    assert not waiting.acked

    await follow(trio, "n2", "n1")
    await trio.eventually("it is acknowledged", lambda: acknowledged(waiting))
    assert await trio.held("n2") == {first.number, waiting.number}


async def test_a_seal_is_the_end_of_what_was_received(trio: Trio) -> None:
    await make_cluster(trio, "n2")
    n1, n2 = trio.servers["n1"], trio.servers["n2"]
    await n1.apply_names(any_of("n2"), True)
    before = await trio.write("n1")
    await trio.eventually("it is acknowledged", lambda: acknowledged(before))
    await trio.eventually("n2 has it all", lambda: streams(trio, "n2", "n1"))
    received = (await position(trio, "n2")).lsn

    sealed = await n2.seal(7, NOBODY)
    assert (sealed.round, sealed.position.timeline, sealed.newest_history) == (7, 1, 1)
    assert received <= sealed.position.lsn <= (await position(trio, "n1")).lsn
    seen = await n2.observe()
    assert (seen.streaming, seen.position) == (False, sealed.position)

    after = await trio.write("n1")

    async def forgotten() -> bool:
        return (await n1.observe()).walsenders == ()

    await trio.eventually("the primary has no walsender", forgotten)
    assert not after.acked
    assert await trio.held("n2") == {before.number}
    assert (await n2.seal(8, NOBODY)).position == sealed.position


async def test_a_promotion_takes_the_number_of_its_term(trio: Trio) -> None:
    await make_cluster(trio, "n2", "n3")
    n1, n2, n3 = trio.servers.values()
    first = await trio.write("n1")
    for name in ("n2", "n3"):
        await trio.eventually("it has it all", lambda n=name: streams(trio, n, "n1"))
    await n1.stop(True)
    here, there = await n2.seal(1, NOBODY), await n3.seal(1, NOBODY)
    assert here.position == there.position

    promoted = await n2.promote(4, any_of("n3"))
    assert (promoted.timeline, promoted.parent) == (4, 1)
    assert promoted.start <= here.position.lsn
    seen = await n2.observe()
    assert (seen.state, seen.names) == (PgState.PRIMARY, any_of("n3"))
    assert seen.position is not None and seen.position.timeline == 4
    waiting = await trio.write("n2")
    assert not waiting.acked

    await n2.keep_slots(("n3",))
    await follow(trio, "n3", "n2")
    await trio.eventually("it is acknowledged", lambda: acknowledged(waiting))
    followed = await n3.observe()
    assert followed.position is not None and followed.position.timeline == 4
    assert followed.newest_history == 4
    assert await trio.held("n3") == {first.number, waiting.number}

    await n3.seal(2, NOBODY)
    with pytest.raises(Refused):
        await n3.promote(4, NOBODY)


async def test_a_follower_is_on_the_new_timeline_also_after_a_restart(trio: Trio) -> None:
    await make_cluster(trio, "n2", "n3")
    n1, n2, n3 = trio.servers.values()
    await n1.stop(True)
    await n2.seal(1, NOBODY)
    await n3.seal(1, NOBODY)
    await n2.promote(2, NOBODY)
    await n2.keep_slots(("n3",))
    await follow(trio, "n3", "n2")
    await n2.stop(True)
    sealed = await n3.seal(2, NOBODY)
    assert (sealed.position.timeline, sealed.newest_history) == (2, 2)
    await n3.stop(True)
    await start_standby(trio, "n3", None)
    assert await position(trio, "n3") == sealed.position
    promoted = await n3.promote(3, NOBODY)
    assert (promoted.timeline, promoted.parent) == (3, 2)


async def test_emptied_names_release_a_waiting_commit_as_acknowledged(trio: Trio) -> None:
    await trio.make_primary("n1")
    n1 = trio.servers["n1"]
    await n1.apply_names(NOBODY, True)
    waiting = await trio.write("n1")
    assert not waiting.acked
    await n1.apply_names("", False)
    await trio.eventually("it is acknowledged", lambda: acknowledged(waiting))


async def test_a_barrier_returns_only_when_its_names_are_satisfied(trio: Trio) -> None:
    await make_cluster(trio, "n2")
    n1 = trio.servers["n1"]
    await n1.apply_names(NOBODY, True)
    with pytest.raises(Unavailable):
        await n1.barrier(NOBODY)
    with pytest.raises(Unavailable):
        await n1.barrier(any_of("n2"))  # Not what is in force.
    await n1.apply_names(any_of("n3", "n2"), True)
    await n1.barrier(any_of("n3", "n2"))


async def test_what_was_flushed_survives_a_stop(trio: Trio) -> None:
    await trio.make_primary("n1")
    n1 = trio.servers["n1"]
    writes = [await trio.write("n1")]
    assert writes[0].acked
    await n1.apply_names(NOBODY, True)
    for immediate in (True, False):
        writes.append(await trio.write("n1"))
        before = await position(trio, "n1")
        await n1.stop(immediate)
        stopped = await n1.observe()
        assert (stopped.state, stopped.clean) == (PgState.STOPPED, not immediate)
        assert stopped.disk_timeline == 1
        assert immediate or stopped.checkpoint_lsn >= before.lsn

        await n1.start("", NOBODY, None, False, trio.deadline)
        assert (await n1.observe()).names == NOBODY
        assert (await position(trio, "n1")).timeline == 1
        assert await trio.held("n1") == {w.number for w in writes}
        assert [w.acked for w in writes[1:]] == [False] * (len(writes) - 1)


async def test_a_diverged_primary_is_rewound_and_follows(trio: Trio) -> None:
    await make_cluster(trio, "n2")
    n1, n2, _ = trio.servers.values()
    await n1.apply_names(any_of("n2"), True)
    kept = await trio.write("n1")
    await trio.eventually("it is acknowledged", lambda: acknowledged(kept))
    await n2.seal(1, NOBODY)
    tail = await trio.write("n1")
    assert not tail.acked
    await n1.stop(True)
    await n2.promote(2, any_of("n1"))
    await n2.keep_slots(("n1",))
    news = await trio.write("n2")

    await n1.rewind(trio.upstream("n2"))
    assert (await n1.observe()).state is PgState.STOPPED
    await start_standby(trio, "n1", "n2")
    await trio.eventually("it is acknowledged", lambda: acknowledged(news))
    assert await trio.held("n1") == {kept.number, news.number}
    assert (await position(trio, "n1")).timeline == 2
    assert not tail.acked


async def test_a_restart_does_not_move_a_seal(trio: Trio) -> None:
    await make_cluster(trio, "n2")
    n1, n2 = trio.servers["n1"], trio.servers["n2"]
    kept = await trio.write("n1")
    await trio.eventually("n2 has it all", lambda: streams(trio, "n2", "n1"))
    sealed = await n2.seal(1, NOBODY)
    await trio.write("n1")

    for immediate in (True, False):
        await n2.stop(immediate)
        stopped = await n2.observe()
        assert (stopped.state, stopped.disk_timeline) == (PgState.STOPPED, 1)
        await start_standby(trio, "n2", None)
        assert await position(trio, "n2") == sealed.position
        assert (await n2.seal(2, NOBODY)).position == sealed.position
        assert await trio.held("n2") == {kept.number}
        assert (await n1.observe()).walsenders == ()


@pytest.mark.parametrize("immediate", [True, False])
async def test_a_stopped_server_shows_whether_it_was_a_primary(trio: Trio, immediate: bool) -> None:
    """Also before the first checkpoint of its timeline; a copy of a primary was none."""
    await make_cluster(trio, "n2")
    n2, n3 = trio.servers["n2"], trio.servers["n3"]
    await n3.clone(trio.upstream("n1"))
    assert not (await n3.observe()).was_primary
    await trio.eventually("n2 has it all", lambda: streams(trio, "n2", "n1"))
    await n2.seal(1, NOBODY)
    await n2.stop(immediate)
    assert not (await n2.observe()).was_primary

    await start_standby(trio, "n2", None)
    await n2.seal(1, NOBODY)
    await n2.promote(2, NOBODY)
    await n2.stop(immediate)
    stopped = await n2.observe()
    assert (stopped.was_primary, stopped.disk_timeline) == (True, 2)
    await start_standby(trio, "n2", None)
    await n2.stop(immediate)
    assert not (await n2.observe()).was_primary


async def test_a_promotion_has_nothing_from_after_the_seal(trio: Trio) -> None:
    await make_cluster(trio, "n2")
    n1, n2 = trio.servers["n1"], trio.servers["n2"]
    await n1.apply_names(any_of("n2"), True)
    kept = await trio.write("n1")
    await trio.eventually("it is acknowledged", lambda: acknowledged(kept))
    sealed = await n2.seal(1, NOBODY)
    tail = await trio.write("n1")

    promoted = await n2.promote(2, NOBODY)
    assert (promoted.timeline, promoted.parent) == (2, 1)
    assert promoted.start <= sealed.position.lsn
    assert await trio.held("n2") == {kept.number}
    assert not tail.acked
