"""Who acknowledges a commit, and who does not: HAZARDS 14, 19, 22, 23, 23a."""

import pytest

from pgregent.core.durability import standby_names
from tests.conformance.fakes.lab import Lab, LabMaker, Part, Stop, any_of, can_happen

NOBODY = standby_names()


async def test_a_standbys_readers_see_a_commit_that_still_waits(lab: Lab) -> None:
    await lab.primary("a", NOBODY)
    await lab.standby("b", "a")
    commit = await lab.commit("a")

    async def replayed() -> bool:
        return commit.number in await lab.reads("b")

    await lab.eventually("b has replayed it", replayed)
    assert await lab.still_waits("a", commit, flushed_by="b")
    assert commit.number not in await lab.reads("a")


@pytest.mark.parametrize("how", list(Stop))
async def test_a_waiting_commit_is_seen_after_a_restart(lab: Lab, how: Stop) -> None:
    await lab.primary("a", NOBODY)
    commit = await lab.commit("a")
    assert await lab.still_waits("a", commit, flushed_by=())
    assert await lab.reads("a") == set()
    await lab.stop("a", how)
    await lab.start_primary("a", NOBODY)
    assert await lab.reads("a") == {commit.number}
    assert not commit.acked


@pytest.mark.parametrize("terminate", [False, True], ids=["cancelled", "terminated"])
async def test_a_commit_whose_wait_is_ended_is_seen(lab: Lab, terminate: bool) -> None:
    await lab.primary("a", NOBODY)
    commit = await lab.commit("a")
    assert await lab.still_waits("a", commit, flushed_by=())
    await lab.end_wait(commit, terminate=terminate)

    async def seen() -> bool:
        return commit.number in await lab.reads("a")

    await lab.eventually("it is seen", seen)
    assert not commit.acked
    assert not await lab.waits(commit)


async def test_emptied_names_release_who_waits(lab: Lab) -> None:
    await lab.primary("a", NOBODY)
    commits = [await lab.commit("a") for _ in range(2)]
    assert await lab.still_waits("a", commits[1], flushed_by=())
    await lab.set_names("a", "")
    for commit in commits:
        await lab.acked(commit)
    assert await lab.reads("a") == {commit.number for commit in commits}


async def test_a_standby_that_is_not_named_acknowledges_nothing(lab: Lab) -> None:
    await lab.primary("a", any_of(1, "b"))
    await lab.standby("c", "a")
    commit = await lab.commit("a")
    assert await lab.still_waits("a", commit, flushed_by="c")
    await lab.set_names("a", any_of(1, "c"))
    await lab.commit("a")
    await lab.acked(commit)


async def test_any_1_takes_either_and_any_2_both(lab: Lab) -> None:
    await lab.primary("a", any_of(1, "b", "c"))
    await lab.standby("b", "a")
    await lab.standby("c", "a")
    await lab.acked(await lab.commit("a"))
    await lab.unfollow("c")
    await lab.receiver_ends("c")
    await lab.acked(await lab.commit("a"))

    await lab.set_names("a", any_of(2, "b", "c"))
    commit = await lab.commit("a")
    assert await lab.still_waits("a", commit, flushed_by="b")
    await lab.follow("c", "a")
    await lab.acked(commit)

    await lab.unfollow("b")
    await lab.receiver_ends("b")
    commit = await lab.commit("a")
    assert await lab.still_waits("a", commit, flushed_by="c")
    await lab.set_names("a", any_of(1, "b", "c"))
    await lab.commit("a")
    await lab.acked(commit)


async def test_after_a_reload_a_new_session_has_the_new_names_only(lab: Lab) -> None:
    await lab.primary("a", any_of(1, "b"))
    await lab.standby("b", "a")
    await lab.acked(await lab.commit("a"))
    for _ in range(3):
        await lab.set_names("a", any_of(1, "c"))
        commit = await lab.commit("a")
        assert await lab.still_waits("a", commit, flushed_by="b")
        await lab.set_names("a", any_of(1, "b"))
        await lab.acked(await lab.commit("a"))
        await lab.acked(commit)


async def test_a_walsender_can_be_late_to_see_a_reload(labs: list[LabMaker]) -> None:
    async def scenario(lab: Lab) -> bool:
        await lab.primary("a", any_of(1, "b"))
        await lab.standby("b", "a")
        async with lab.slow("a", Part.WALSENDER):
            await lab.set_names("a", any_of(1, "c"))
            late = await lab.counts("a", "b")
        lsn = await lab.mark("a")
        await lab.flushed("a", "b", lsn)

        async def adopted() -> bool:
            return not await lab.counts("a", "b")

        await lab.eventually("it has the new names", adopted)
        return late

    assert await can_happen(labs, scenario)


async def test_names_that_were_empty_can_acknowledge_without_a_standby(
    labs: list[LabMaker],
) -> None:
    async def scenario(lab: Lab) -> bool:
        await lab.primary("a")
        await lab.acked(await lab.commit("a"))
        async with lab.slow("a", Part.CHECKPOINTER):
            await lab.set_names("a", NOBODY)
            early = await lab.commit("a")
        await lab.checkpoint("a")
        commit = await lab.commit("a")
        assert await lab.still_waits("a", commit, flushed_by=())
        return early.acked

    assert await can_happen(labs, scenario)


async def test_a_standby_whose_replay_stopped_acknowledges_and_cannot_be_promoted(
    lab: Lab,
) -> None:
    await lab.primary("a", any_of(1, "b"))
    await lab.standby("b", "a")
    before = await lab.commit("a")
    await lab.acked(before)
    await lab.replay_stops("b", "a")
    commit = await lab.commit("a")
    await lab.acked(commit)
    assert commit.number not in await lab.reads("b")
    await lab.request_promotion("b")
    await lab.gone("b")
