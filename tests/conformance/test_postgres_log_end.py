"""Where a standby's log ends is not said from before recovery had read it all."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from pgregent.adapters.postgres import sql
from pgregent.adapters.postgres.render import BASE_CONF
from pgregent.adapters.postgres.server import LocalServer
from pgregent.core.durability import standby_names
from pgregent.core.types import Position
from tests.conformance import pg
from tests.conformance.trio import Trio, label, real_trio

NOBODY = standby_names()
DELAY = "recovery_min_apply_delay = '1h'\n"
pytestmark = pytest.mark.skipif(not pg.installations(), reason="no PostgreSQL")


@pytest.fixture
async def trio() -> AsyncGenerator[Trio]:
    async with real_trio() as made:
        yield made


async def _streamed(trio: Trio) -> Position:
    """Where the log of n2 ends that its primary left; recovery waits before the first commit."""
    await trio.make_primary("n1")
    n1, n2 = trio.servers["n1"], trio.servers["n2"]
    assert isinstance(n2, LocalServer)
    await n1.keep_slots(("n2",))
    await n2.clone(trio.upstream("n1"))
    base = n2.config.data_dir / BASE_CONF
    base.write_text(base.read_text() + DELAY)
    await n2.start(label("n2"), NOBODY, trio.upstream("n1"), True, trio.deadline)

    async def streams() -> bool:
        return (await n2.observe()).streaming

    await trio.eventually("n2 streams", streams)
    for _ in range(5):
        await trio.write("n1")
    # It sends all that it has before it ends.
    await n1.stop(False)
    seen = await n2.observe()
    assert seen.position is not None and seen.replay_lsn < seen.position.lsn
    return seen.position


async def test_what_recovery_reads_between_two_looks_is_in_the_vote(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started again it has received nothing: its log ends where recovery has nothing more to
    read, which is so only just before the adapter asks."""
    end = await _streamed(trio)
    n2 = trio.servers["n2"]
    assert isinstance(n2, LocalServer)
    await n2.stop(False)
    await n2.start(label("n2"), NOBODY, None, True, trio.deadline)
    seen = await n2.observe()
    assert seen.position is None and 0 < seen.replay_lsn < end.lsn
    waits = sql.startup_waits_for_wal

    async def goes_on_first(conn: sql.Connection, *, timeout: float = 1.0) -> bool:
        base = n2.config.data_dir / BASE_CONF
        base.write_text(base.read_text().replace(DELAY, ""))
        await conn.execute("SELECT pg_reload_conf()")

        async def done() -> bool:
            return await waits(conn, timeout=timeout)

        return await trio.eventually("recovery has read all", done)

    monkeypatch.setattr(sql, "startup_waits_for_wal", goes_on_first)
    async with asyncio.timeout(20.0):
        sealed = await n2.seal(1, NOBODY)
    assert sealed.position == end, "its vote says less than its log has"
