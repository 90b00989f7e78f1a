"""bootstrap.post_bootstrap, run by a real agent in a new cluster."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from pgregent.adapters.postgres import sql, tools
from tests.conformance import pg
from tests.conformance.test_agent_settings import Agent, Agents

pytestmark = pytest.mark.skipif(not pg.installations(), reason="no PostgreSQL")

LIMIT = 40.0
PASSWORD = "the-superusers-own"


@pytest.fixture
async def agents() -> AsyncIterator[Agents]:
    with pg.folder(tools.service_owner()) as root:
        made = Agents(root)
        try:
            yield made
        finally:
            await asyncio.gather(*(agent.stop() for agent in made.made))


async def logged(agent: Agent, text: str, times: int = 1) -> None:
    async def so() -> bool:
        await agent.status()
        return agent.log.read_text().count(text) >= times

    await pg.eventually(text, so, timeout=LIMIT)


async def serves(agent: Agent) -> bool:
    await agent.status()
    return (await agent.get("/primary"))[0] == 200


async def test_it_is_run_once_and_its_failure_is_no_cluster(agents: Agents) -> None:
    port, place = pg.free_port(), agents.root / "script"
    place.mkdir()
    place.chmod(0o777)  # PostgreSQL's user writes into it.
    script, told, environ = place / "fill.sh", place / "told", place / "environ"
    psql = f'{pg.installations()[0]}/psql -X "$2" -v ON_ERROR_STOP=1'
    fill = f'echo "$@" >> {told}\nenv >> {environ}\n{psql} -c "CREATE DATABASE app"\n'
    script.write_text(f"#!/bin/sh\n{fill}echo out of luck\nexit 3\n")
    script.chmod(0o755)
    agent = agents.start(
        "n1",
        pg.free_port(),
        {
            "listen": f"127.0.0.1:{port}",
            "authentication": {
                "superuser": {"username": "postgres", "password": PASSWORD},
                "replication": {"username": "replicator", "password": "two"},
            },
        },
        local={"path": str(agents.root / "dcs.sqlite")},
        bootstrap={"dcs": {"synchronous_mode": True}, "post_init": f"{script} 'a word'"},
    )
    words = agent.file.parent / "data.pgregent" / "post_bootstrap.log"
    await logged(agent, f"{script} ended with code 3; what it said is in {words}")
    assert words.read_text() == "CREATE DATABASE\nout of luck\n"
    assert words.stat().st_mode & 0o077 == 0
    await logged(agent, "post_bootstrap failed, or was interrupted: the cluster is not created")
    expected = f"a word host='127.0.0.1' port='{port}' user='postgres' dbname='postgres'\n"
    assert told.read_text() == expected
    assert not await serves(agent)

    data = agent.file.parent / "data"
    script.write_text(f"#!/bin/sh\n{fill}")
    data.rename(data.with_name("data.failed"))
    await pg.eventually("it serves", lambda: serves(agent), timeout=LIMIT)
    assert told.read_text() == expected * 2
    assert "PGPASSFILE=" in environ.read_text()
    assert PASSWORD not in environ.read_text()
    server = sql.Server("127.0.0.1", port)
    await sql.close(
        await sql.connect(server, sql.Credentials("postgres", PASSWORD), dbname="app", timeout=5)
    )
    assert not list(data.glob("post_bootstrap.*"))
    assert not (words.parent / "post_bootstrap.pgpass").exists()
