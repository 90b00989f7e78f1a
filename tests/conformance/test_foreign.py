"""A server that no guard started: looked at, and taken over by a clean stop; and its files."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pgregent.adapters.postgres import foreign, patroni_files, render, wal
from pgregent.adapters.postgres.guard_client import foreign_postmaster
from pgregent.adapters.postgres.layout import ServerConfig
from pgregent.adapters.postgres.server import LocalServer
from pgregent.core.adoption import DataDir, Ended
from pgregent.core.types import PgState
from tests.conformance import pg
from tests.conformance.trio import _end as end

pytestmark = pytest.mark.skipif(not pg.installations(), reason="no PostgreSQL")


@pytest.fixture
def servers() -> Iterator[pg.Servers]:
    with pg.servers_of(pg.installations()[0]) as made:
        yield made


def configured(server: pg.Pg) -> ServerConfig:
    """As the member's own agent would have it."""
    config = ServerConfig(
        name=server.name,
        data_dir=server.data_dir,
        bin_dir=server.bin_dir,
        log_file=server.log.with_suffix(".own.log"),
        listen_host="127.0.0.1",
        port=server.port,
        superuser=pg.ADMIN,
        replication=pg.ADMIN,
        owner=server.owner,
        user=None if server.owner is None else "postgres",
        parameters={"fsync": "off"},
        pg_hba=("host all all 127.0.0.1/32 scram-sha-256",),
    )
    config.state_dir.mkdir(mode=0o711)
    return config


async def test_a_running_primary_and_its_standbys_slots(servers: pg.Servers) -> None:
    primary = await servers.primary("a")
    standby = await servers.standby("b", primary)
    await primary.execute("SELECT pg_create_physical_replication_slot('b', true)")
    standby.set_role(render.Role(upstream=standby.upstream(primary), slot="b"))
    await standby.execute("SELECT pg_reload_conf()")

    async def uses_it() -> bool:
        found = (await foreign.look(config)).standbys
        assert found in ((), ("b",))
        return found == ("b",)

    config = configured(primary)
    await pg.eventually("it streams through its slot", uses_it)
    status = await primary.status()
    data = (await foreign.look(config)).data
    identifier = str(status.system_identifier)
    assert data == DataDir(identifier, 1, False, data.log_end)
    assert data.log_end >= status.flush_lsn
    theirs = (await foreign.look(configured(standby))).data
    assert (theirs.system_id, theirs.is_standby) == (identifier, True)
    primary.stop()
    stopped = (await foreign.look(config)).data
    assert not stopped.is_standby and stopped.log_end >= data.log_end
    standby.stop()
    assert (await foreign.look(configured_again(standby))).data.is_standby


def configured_again(server: pg.Pg) -> ServerConfig:
    shutil.rmtree(server.data_dir.with_name(f"{server.name}.pgregent"))
    return configured(server)


async def test_a_promoted_one_knows_where_its_timelines_ended(servers: pg.Servers) -> None:
    primary = await servers.primary("a")
    standby = await servers.standby("b", primary)
    primary.stop()
    await standby.execute("SELECT pg_promote()")
    data = (await foreign.look(configured(standby))).data
    ((parent, end_lsn),) = [(e.timeline, e.at_lsn) for e in data.lineage]
    assert (data.timeline, parent) == (2, 1) and 0 < end_lsn <= data.log_end
    assert data.lineage == (Ended(1, end_lsn),)


async def test_one_that_is_reached_through_its_socket_only(servers: pg.Servers) -> None:
    primary = await servers.primary("a")
    primary.stop()
    primary.configure(unix_socket_directories=str(servers.root))
    hba = "local all all scram-sha-256\nhost all all 127.0.0.1/32 reject\n"
    render.write_file(primary.data_dir / render.HBA_CONF, hba, primary.owner)
    primary.spawn()
    config = replace(configured(primary), use_unix_socket=True)

    async def seen() -> bool:
        runs = foreign_postmaster(config.data_dir, config.state_dir) is not None
        return runs and (await foreign.look(config)).data.log_end > 0

    await pg.eventually("it is looked at", seen)


async def test_killed_where_its_log_ends_is_not_told(servers: pg.Servers) -> None:
    primary = await servers.primary("a")
    primary.signal_all(9)
    primary.stop()
    assert (await foreign.look(configured(primary))).data.log_end == 0


async def test_an_agent_stops_it_cleanly_and_not_one_of_its_own_guard(
    servers: pg.Servers,
) -> None:
    primary = await servers.primary("a")
    await primary.execute("CREATE TABLE kept AS SELECT 1 AS x")
    assert primary.process is not None
    server = LocalServer(configured(primary), lambda path, size: None)
    try:
        await server.open(lambda why: None)
        assert primary.process.wait(5) == 0, "a fast shutdown, and no kill"
        control = wal.controldata(primary.bin_dir, primary.data_dir)
        assert control.state == "shut down"
        await server.start("", "", None, False, None)
        assert (await server.observe()).state is PgState.PRIMARY
        assert await primary.execute("SELECT x FROM kept") == [(1,)]
        ours = server.processes()[1]
        await foreign.end(server.config)
        assert server.processes()[1] == ours
        assert (await server.observe()).state is PgState.PRIMARY
        await server.stop(immediate=False)
    finally:
        await end(server)


async def test_the_files_come_back(servers: pg.Servers) -> None:
    """Whoever starts the server next finds nothing of ours, and who got in before gets in."""
    primary = await servers.primary("a")
    primary.stop()
    config = configured(primary)
    hba = "# mine\nhost all all 127.0.0.1/32 md5\n"
    base = f"max_connections = 33\nport = {primary.port}\nunix_socket_directories = ''\n"
    render.write_file(primary.data_dir / render.HBA_CONF, hba, config.owner)
    render.write_file(primary.data_dir / render.POSTGRESQL_CONF, "# Patroni's\n", config.owner)
    render.write_file(primary.data_dir / render.BASE_CONF, base, config.owner)
    (primary.data_dir / render.ROLE_CONF).unlink()
    kept = patroni_files.keep(config)
    assert (kept / render.HBA_CONF).read_text() == hba
    server = LocalServer(config, lambda path, size: None)
    try:
        await server.open(lambda why: None)
        await server.start("a@1", render.PLACEHOLDER_NAMES, None, False, None)
        patroni_files.keep(config)
        assert (kept / render.HBA_CONF).read_text() == hba, "not ours over it"
        await server.stop(immediate=False)
    finally:
        await end(server)
    late = primary.data_dir / "pg_wal" / wal.history_name(9)
    render.write_file(late, wal.STUB, config.owner)
    patroni_files.give_back(config, None)
    assert not late.exists()
    assert (primary.data_dir / render.HBA_CONF).read_text() == hba
    assert not any("pgregent" in path.name for path in primary.data_dir.iterdir())
    await primary.start()
    names = "current_setting('synchronous_standby_names') s, current_setting('max_connections') m"
    assert await primary.execute(f"SELECT {names}") == [("", "33")]  # pyright: ignore


async def test_where_none_was_kept_the_configuration_says_who_gets_in(
    servers: pg.Servers,
) -> None:
    primary = await servers.primary("a")
    primary.stop()
    config = configured(primary)
    closed = render.lines_conf(render.closed_hba(config.pg_hba, "postgres"))
    render.write_file(primary.data_dir / render.HBA_CONF, closed, config.owner)
    patroni_files.give_back(config, Path("/etc/own.conf"))
    assert config.pg_hba[0] in (primary.data_dir / render.HBA_CONF).read_text()
    assert "include '/etc/own.conf'" in (primary.data_dir / render.POSTGRESQL_CONF).read_text()
    assert os.stat(primary.data_dir / render.HBA_CONF).st_mode & 0o777 == 0o600
