"""How a server ends, and what it is when it is half dead: HAZARDS 1, 2, 5."""

import pytest

from pgregent.core.durability import standby_names
from pgregent.core.errors import Unavailable
from tests.conformance.fakes.lab import Lab, Stop

NOBODY = standby_names()


async def test_a_fast_shutdown_waits_until_a_standby_has_its_checkpoint(lab: Lab) -> None:
    await lab.primary("a", NOBODY)
    await lab.standby("b", "a")
    commit = await lab.commit("a")
    await lab.flushed("a", "b", commit.lsn)
    async with lab.frozen("b"):
        await lab.begin_stop("a", Stop.FAST)

        async def refuses() -> bool:
            try:
                await lab.connect("a")
            except Unavailable:
                return True
            return False

        await lab.eventually("a takes no new session", refuses)
        assert await lab.runs("a")
    await lab.gone("a")
    assert await lab.is_clean("a")
    assert not commit.acked
    await lab.unfollow("b")
    await lab.receiver_ends("b")
    assert (await lab.position("b"))[1] > await lab.checkpoint_lsn("a") >= commit.lsn
    assert commit.number in await lab.reads("b")


async def test_a_fast_shutdown_gives_up_a_standby_that_is_frozen(lab: Lab) -> None:
    await lab.primary("a")
    await lab.standby("b", "a")
    async with lab.frozen("b"):
        commit = await lab.commit("a")
        assert commit.acked
        await lab.stop("a", Stop.FAST)
    assert await lab.is_clean("a")
    assert commit.lsn <= await lab.checkpoint_lsn("a")


@pytest.mark.parametrize("how", [Stop.IMMEDIATE, Stop.KILL])
async def test_a_crash_loses_nothing_that_was_flushed(lab: Lab, how: Stop) -> None:
    await lab.primary("a")
    await lab.standby("b", "a")
    commits = [await lab.commit("a") for _ in range(3)]
    await lab.flushed("a", "b", commits[-1].lsn)
    for name in ("a", "b"):
        await lab.stop(name, how)
        assert not await lab.is_clean(name)
    await lab.start_primary("a")
    await lab.start("b", of="a")
    await lab.streams("b", "a")
    assert await lab.reads("a") == {commit.number for commit in commits}
    assert all(commit.acked for commit in commits)
    assert (await lab.position("a"))[0] == 1


async def test_a_session_commits_on_after_its_postmaster_was_killed(lab: Lab) -> None:
    await lab.primary("a")
    commits = await lab.orphan_commits("a")
    assert commits
    with pytest.raises(Unavailable):
        await lab.connect("a")
    await lab.stop("a", Stop.KILL)
    await lab.start_primary("a")
    assert commits <= await lab.reads("a")


async def test_under_a_frozen_postmaster_old_sessions_commit_and_new_ones_hang(lab: Lab) -> None:
    await lab.primary("a")
    await lab.standby("b", "a")
    session = await lab.connect("a")
    async with lab.postmaster_frozen("a"):
        commit = await session.commit()
        assert commit.acked
        with pytest.raises(Unavailable):
            await lab.connect("a")
        assert await lab.has_receiver("b")

        async def replayed() -> bool:
            return commit.number in await lab.reads("b")

        await lab.eventually("b has it", replayed)
    assert commit.number in await lab.reads("a")
