"""A standby that is to take no more WAL: HAZARDS 15, 16."""

from tests.conformance.fakes.lab import Lab, LabMaker, Part, Stop, any_of, can_happen


async def test_a_cleared_primary_conninfo_can_acknowledge_for_a_while(
    labs: list[LabMaker],
) -> None:
    async def scenario(lab: Lab) -> bool:
        await lab.primary("a", any_of(1, "b"))
        await lab.standby("b", "a")
        async with lab.slow("b", Part.STARTUP):
            await lab.unfollow("b")
            commit = await lab.commit("a")

            async def over() -> bool:
                return commit.acked or not await lab.has_receiver("b")

            await lab.eventually("it is acknowledged, or cannot be", over)
        await lab.receiver_ends("b")
        return commit.acked

    assert await can_happen(labs, scenario)


async def test_nothing_arrives_once_the_walreceiver_is_gone(lab: Lab) -> None:
    await lab.primary("a", any_of(1, "b"))
    await lab.standby("b", "a")
    await lab.standby("c", "a")
    kept = await lab.commit("a")
    await lab.acked(kept)
    await lab.unfollow("b")
    await lab.receiver_ends("b")
    sealed = await lab.position("b")
    commit = await lab.commit("a")
    assert await lab.still_waits("a", commit, flushed_by="c")
    assert await lab.position("b") == sealed
    assert sealed[1] < commit.lsn
    assert await lab.reads("b") == {kept.number}


async def test_the_archive_feeds_a_sealed_standby(lab: Lab) -> None:
    await lab.primary("a", archives=True)
    await lab.standby("b", "a")
    await lab.unfollow("b", restore=True)
    await lab.receiver_ends("b")
    commit = await lab.commit("a")
    lsn = await lab.switch_wal("a")
    assert lsn >= commit.lsn

    async def restored() -> bool:
        return commit.number in await lab.reads("b")

    await lab.eventually("b has it from the archive", restored)
    assert not await lab.has_receiver("b")
    assert await lab.confirmed("a", "b") == 0


async def test_without_a_restore_command_the_archive_feeds_nobody(lab: Lab) -> None:
    await lab.primary("a", archives=True)
    for name in ("b", "c"):
        await lab.standby(name, "a")
        await lab.unfollow(name, restore=name == "c")
        await lab.receiver_ends(name)
    sealed = await lab.position("b")
    for _ in range(2):
        commit = await lab.commit("a")
        await lab.switch_wal("a")

        async def restored(number: int = commit.number) -> bool:
            return number in await lab.reads("c")

        await lab.eventually("c has it from the archive", restored)
    assert await lab.position("b") == sealed


async def test_what_was_received_is_unknown_right_after_a_restart(labs: list[LabMaker]) -> None:
    async def scenario(lab: Lab) -> bool:
        await lab.primary("a")
        await lab.standby("b", "a")
        commit = await lab.commit("a")
        await lab.flushed("a", "b", commit.lsn)
        await lab.unfollow("b")
        await lab.receiver_ends("b")
        sealed = await lab.position("b")
        assert await lab.received("b") is not None
        await lab.stop("b", Stop.IMMEDIATE)
        await lab.start("b")
        unknown = await lab.received("b") is None
        assert await lab.position("b") == sealed
        return unknown

    assert await can_happen(labs, scenario)
