"""Promotion, timelines and pg_rewind: HAZARDS 9, 10, 12, 17, 17a, 17c, 17d, 18a, 26, 27."""

import pytest

from pgregent.core.durability import standby_names
from tests.conformance.fakes.lab import Lab, LabMaker, Part, Rewind, Stop, any_of, can_happen

NOBODY = standby_names()


async def sealed_pair(lab: Lab) -> None:
    """a has ended; b and c have all of its WAL and stream from nobody."""
    await lab.primary("a")
    for name in ("b", "c"):
        await lab.standby(name, "a")
    await lab.stop("a", Stop.FAST)
    for name in ("b", "c"):
        await lab.unfollow(name)
        await lab.receiver_ends(name)


async def test_a_follower_knows_its_timeline_by_the_segment(lab: Lab) -> None:
    await sealed_pair(lab)
    assert await lab.promote("b") == 2
    await lab.follow("c", "b")
    await lab.streams("c", "b")
    await lab.unfollow("c")
    await lab.receiver_ends("c")
    assert (await lab.position("c"))[0] == 2
    assert await lab.control_timeline("c") == 1


@pytest.mark.parametrize(
    ("stubs", "timeline"), [((), 2), ((2, 3), 4), ((3,), 2)], ids=["none", "2 and 3", "a gap"]
)
async def test_a_promotion_takes_the_first_number_without_a_history_file(
    lab: Lab, stubs: tuple[int, ...], timeline: int
) -> None:
    await lab.primary("a")
    await lab.standby("b", "a")
    kept = await lab.commit("a")
    await lab.flushed("a", "b", kept.lsn)
    await lab.stop("a", Stop.KILL)
    for number in stubs:
        await lab.put_stub("b", number)
    assert await lab.promote("b") == timeline
    assert await lab.reads("b") == {kept.number}


async def test_a_late_stub_stops_a_standby_from_starting(lab: Lab) -> None:
    await lab.primary("a")
    await lab.standby("b", "a")
    await lab.stop("b", Stop.FAST)
    await lab.put_stub("b", 2)
    assert await lab.fails_to_start("b")
    await lab.remove_late_stubs("b")
    await lab.start("b", of="a")
    await lab.streams("b", "a")


async def test_a_promotion_happens_though_primary_conninfo_is_cleared_after(
    labs: list[LabMaker],
) -> None:
    async def scenario(lab: Lab) -> bool:
        await lab.primary("a")
        await lab.standby("b", "a")
        async with lab.slow("b", Part.STARTUP):
            await lab.request_promotion("b")
            await lab.unfollow("b")
            late = not await lab.is_primary("b")
        assert await lab.promoted("b") == 2
        return late

    assert await can_happen(labs, scenario)


async def test_two_promotions_at_one_lsn_become_one_timeline(lab: Lab) -> None:
    await sealed_pair(lab)
    assert await lab.position("b") == await lab.position("c")
    assert [await lab.promote(name) for name in ("b", "c")] == [2, 2]
    mine, other = await lab.commit("b"), await lab.commit("c")
    await lab.checkpoint("c")
    await lab.stop("c", Stop.FAST)
    assert await lab.rewind("c", "b") is Rewind.NOT_REQUIRED
    await lab.start_primary("c")
    assert await lab.reads("c") == {other.number}
    assert await lab.reads("b") == {mine.number}


async def past_the_fork(lab: Lab) -> int:
    """b is the successor of a, and c is well ahead of where b's timeline began; c's own commit."""
    await lab.primary("a")
    await lab.standby("b", "a")
    await lab.standby("c", "a")
    await lab.unfollow("b")
    await lab.receiver_ends("b")
    await lab.write_much("a")
    tail = await lab.commit("a")
    await lab.flushed("a", "c", tail.lsn)
    await lab.stop("a", Stop.KILL)
    assert await lab.promote("b") == 2
    return tail.number


async def test_a_standby_past_the_fork_never_gets_anything(lab: Lab) -> None:
    tail = await past_the_fork(lab)
    await lab.commit("b")
    await lab.follow("c", "b")
    await lab.tries_in_vain("c", "b")
    assert await lab.reads("c") == {tail}
    assert (await lab.position("c"))[0] == 1


async def test_a_standby_past_the_fork_can_acknowledge_what_it_does_not_have(
    labs: list[LabMaker],
) -> None:
    async def scenario(lab: Lab) -> bool:
        await past_the_fork(lab)
        await lab.set_names("b", any_of(1, "c"))
        await lab.checkpoint("b")
        commit = await lab.commit("b")
        assert await lab.still_waits("b", commit, flushed_by=())
        await lab.follow("c", "b")
        await lab.tries_in_vain("c", "b")
        assert commit.number not in await lab.reads("c")
        return commit.acked

    assert await can_happen(labs, scenario)


async def test_the_control_file_shows_the_old_timeline_until_a_checkpoint(
    labs: list[LabMaker],
) -> None:
    async def scenario(lab: Lab) -> bool:
        await lab.primary("a")
        await lab.standby("b", "a")
        await lab.stop("a", Stop.KILL)
        async with lab.slow("b", Part.CHECKPOINTER):
            assert await lab.promote("b") == 2
            old = await lab.control_timeline("b") == 1
        await lab.checkpoint("b")
        assert await lab.control_timeline("b") == 2
        return old

    assert await can_happen(labs, scenario)


async def diverged(lab: Lab) -> tuple[int, int]:
    """The primary a has ended with a commit that its successor b lacks; b has one of its own."""
    await lab.primary("a", any_of(1, "b"))
    await lab.standby("b", "a")
    await lab.acked(await lab.commit("a"))
    await lab.unfollow("b")
    await lab.receiver_ends("b")
    tail = await lab.commit("a")
    await lab.stop("a", Stop.FAST)
    assert await lab.promote("b") == 2
    news = await lab.commit("b")
    return tail.number, news.number


async def test_a_rewind_before_the_sources_checkpoint_is_not_required(
    labs: list[LabMaker],
) -> None:
    async def scenario(lab: Lab) -> bool:
        await lab.primary("a", any_of(1, "b"))
        await lab.standby("b", "a")
        await lab.unfollow("b")
        await lab.receiver_ends("b")
        tail = await lab.commit("a")
        await lab.stop("a", Stop.FAST)
        async with lab.slow("b", Part.CHECKPOINTER):
            await lab.promote("b")
            said = await lab.rewind("a", "b", checkpoint=False)
        if said is Rewind.NOT_REQUIRED:
            await lab.start_primary("a", NOBODY)
            assert tail.number in await lab.reads("a")
        return said is Rewind.NOT_REQUIRED if lab.major < 16 else said is Rewind.DONE

    assert await can_happen(labs, scenario)


async def test_a_rewind_forgets_wal_that_was_flushed(lab: Lab) -> None:
    tail, news = await diverged(lab)
    assert await lab.rewind("a", "b") is Rewind.DONE
    await lab.start("a", of="b")
    await lab.streams("a", "b")
    reads = await lab.reads("a")
    assert tail not in reads and news in reads
    assert (await lab.position("a"))[0] == 2


async def test_a_rewind_that_failed_leaves_what_does_not_start(lab: Lab) -> None:
    await diverged(lab)
    await lab.rewind_fails("a", "b")
    assert await lab.is_clean("a")  # As if nothing had happened.
    assert await lab.fails_to_start("a")
