"""What the PostgreSQL adapter must not get wrong, on a real server that makes it hard."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest

from pgregent.adapters.postgres import server as adapter
from pgregent.adapters.postgres import sql
from pgregent.adapters.postgres.server import LocalServer
from pgregent.core.durability import standby_names
from pgregent.core.errors import Unavailable
from tests.conformance import pg
from tests.conformance.trio import Trio, any_of, label, real_trio

NOBODY = standby_names()
pytestmark = pytest.mark.skipif(not pg.installations(), reason="no PostgreSQL")


@pytest.fixture
async def trio() -> AsyncGenerator[Trio]:
    async with real_trio() as made:
        yield made


async def ask(trio: Trio, name: str, query: str) -> list[tuple[object, ...]]:
    server = sql.Server("127.0.0.1", trio.upstream(name).port)
    conn = await sql.connect(server, pg.ADMIN, timeout=5)
    try:
        cursor = await conn.execute(query.encode())
        found = await cursor.fetchall() if cursor.description else []
        return [tuple(row.values()) for row in found]
    finally:
        await sql.close(conn)


async def pair(trio: Trio, *, base_conf: str = "") -> tuple[LocalServer, LocalServer]:
    """n2 streams from the primary n1; `base_conf`: what the operator's own file of n2 says."""
    await trio.make_primary("n1")
    n1, n2 = trio.servers["n1"], trio.servers["n2"]
    assert isinstance(n1, LocalServer) and isinstance(n2, LocalServer)
    await n1.keep_slots(("n2",))
    await n2.clone(trio.upstream("n1"))
    base = n2.config.data_dir / adapter.render.BASE_CONF
    base.write_text((base.read_text() if base.exists() else "") + base_conf)
    await n2.start(label("n2"), NOBODY, trio.upstream("n1"), True, trio.deadline)

    async def streams() -> bool:
        return (await n2.observe()).streaming

    await trio.eventually("n2 streams", streams)
    return n1, n2


async def test_a_seal_waits_for_a_walreceiver_that_does_not_go(trio: Trio) -> None:
    _, n2 = await pair(trio)
    query = "SELECT pid FROM pg_stat_wal_receiver"
    ((receiver,),) = await ask(trio, "n2", query)
    assert isinstance(receiver, int)
    os.kill(receiver, signal.SIGSTOP)
    sealing = asyncio.create_task(n2.seal(1, NOBODY))
    try:
        done, _ = await asyncio.wait({sealing}, timeout=1.0)
        assert not done, "it is sealed, and its walreceiver is there"
    finally:
        os.kill(receiver, signal.SIGCONT)
        with suppress(Unavailable):
            await sealing
    assert await ask(trio, "n2", query) == []


async def test_a_sealed_standby_restores_nothing_from_the_operators_archive(trio: Trio) -> None:
    _, n2 = await pair(trio, base_conf="restore_command = 'cp /nowhere/%f %p'\n")
    await n2.seal(1, NOBODY)
    assert await ask(trio, "n2", "SHOW restore_command") == [("",)]


async def test_a_barrier_waits_also_where_the_operators_sessions_do_not(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "BARRIER_TIMEOUT", 0.5)
    n1, n2 = await pair(trio)
    await ask(trio, "n1", f"ALTER ROLE {pg.SUPERUSER} SET synchronous_commit = local")
    await n1.stop(False)
    await n1.start("", NOBODY, None, False, trio.deadline)
    await n1.apply_names(any_of("n2"), True)
    await n1.barrier(any_of("n2"))
    await n2.seal(1, NOBODY)
    with pytest.raises(Unavailable, match="no standby has acknowledged"):
        await n1.barrier(any_of("n2"))
