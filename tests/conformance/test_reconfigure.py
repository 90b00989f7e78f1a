"""Other parameters and another pg_hba.conf for a server that runs."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from pgregent.adapters.postgres import sql
from pgregent.adapters.postgres.server import LocalServer
from pgregent.core.errors import Unavailable
from tests.conformance import pg
from tests.conformance.test_settings import SMALL, Members, shown
from tests.conformance.trio import _end as end

pytestmark = pytest.mark.skipif(not pg.installations(), reason="no PostgreSQL")

CLIENT = sql.Credentials("client", "c")
HBA = ("host all all 127.0.0.1/32 scram-sha-256", "host replication all all scram-sha-256")
OTHER_HBA = (*HBA, "host all all ::1/128 scram-sha-256")


@pytest.fixture
async def members() -> AsyncIterator[Members]:
    owner = (await asyncio.to_thread(pg.template_of, pg.installations()[0]))[2]
    with pg.folder(owner) as root:
        made = Members(root)
        try:
            yield made
        finally:
            await asyncio.gather(*(end(server) for server in made.made))


async def reconfigure(server: LocalServer, **parameters: str) -> None:
    await server.reconfigure(
        replace(server.config, parameters={**SMALL, **parameters}, pg_hba=OTHER_HBA)
    )


async def gets_in(server: LocalServer) -> bool:
    try:
        address = sql.Server("127.0.0.1", server.config.port)
        await sql.close(await sql.connect(address, CLIENT, timeout=5))
    except Unavailable as error:
        assert "pg_hba.conf" in error.reason
        return False
    return True


async def rules(server: LocalServer) -> int:
    """How many records the server has in force that name ::1."""
    (row,) = await shown(
        server, "SELECT count(*) FROM pg_hba_file_rules WHERE address LIKE '%:1' AND error IS NULL"
    )
    return int(str(row[0]))


async def in_force(server: LocalServer, value: str) -> None:
    async def now() -> bool:
        return await shown(server, "SHOW work_mem") == [(value,)]

    await pg.eventually(f"work_mem is {value}", now)


async def test_a_primary_that_has_not_let_clients_in_stays_closed(members: Members) -> None:
    """Also where another agent than the one that started it is told of the change."""
    server = await members.add("n1", postgresql={"pg_hba": list(HBA)})
    await members.start_primary(server)
    conn = await sql.connect(sql.Server("127.0.0.1", server.config.port), pg.ADMIN, timeout=5)
    await conn.execute("CREATE ROLE client LOGIN PASSWORD 'c'")
    await sql.close(conn)
    await reconfigure(server, work_mem="5MB")
    await in_force(server, "5MB")
    assert not await gets_in(server)
    await server.close()
    successor = LocalServer(server.config, lambda path, size: None)
    members.made.append(successor)
    await successor.open(lambda why: None)
    await pg.eventually("it sees the server", lambda: answers(successor))
    await reconfigure(successor, work_mem="6MB")
    await in_force(successor, "6MB")
    assert not await gets_in(successor)
    await successor.admit()
    assert await gets_in(successor)
    await reconfigure(successor, work_mem="7MB")
    await in_force(successor, "7MB")
    assert await gets_in(successor)
    assert await rules(successor) == 1


async def answers(server: LocalServer) -> bool:
    return (await server.observe()).position is not None


async def test_a_standby_that_an_earlier_agent_started_takes_pg_hba_too(members: Members) -> None:
    primary = await members.add("n1", postgresql={"pg_hba": list(HBA)})
    await members.start_primary(primary)
    await primary.admit()
    standby = await members.add("n2", postgresql={"pg_hba": list(HBA)})
    await members.start_standby(standby, primary)
    await standby.close()
    successor = LocalServer(standby.config, lambda path, size: None)
    members.made.append(successor)
    await successor.open(lambda why: None)
    await pg.eventually("it sees the server", lambda: answers(successor))
    await reconfigure(successor, work_mem="6MB")
    await in_force(successor, "6MB")
    assert await rules(successor) == 1


async def test_what_waits_for_a_start(members: Members) -> None:
    server = await members.add("n1", postgresql={"pg_hba": list(HBA)})
    assert await server.pending_restart() == {}
    await members.start_primary(server)
    assert await server.pending_restart() == {}
    await reconfigure(server, work_mem="5MB", max_connections="33", wal_buffers="1MB")

    async def waits() -> bool:
        return bool(await server.pending_restart())

    await pg.eventually("it is told", waits)
    found = await server.pending_restart()
    assert found["max_connections"] == ("100", "33")
    assert found.keys() == {"max_connections", "wal_buffers"}
    await server.stop(immediate=False)
    assert await server.pending_restart() == {}
    await server.start("", "", None, False, members.deadline)
    assert await shown(server, "SHOW max_connections") == [("33",)]
    assert await server.pending_restart() == {}
