"""What a member's file says, through the agent's own reading of it, with a real PostgreSQL."""

import asyncio
import os
import signal
import stat
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import LiteralString

import pytest
import yaml

from pgregent.adapters.postgres import sql, wal
from pgregent.adapters.postgres.server import LocalServer
from pgregent.agent import wiring
from pgregent.agent.wiring import custom_conf_of, server_of
from pgregent.config.load import check_config
from pgregent.config.schema import AgentConfig
from pgregent.core.durability import standby_names
from pgregent.core.errors import Unavailable
from pgregent.core.types import PgState
from pgregent.ports.postgres import Upstream
from tests.conformance import pg
from tests.conformance.trio import SERVERS_END_AFTER, label
from tests.conformance.trio import _end as end

pytestmark = pytest.mark.skipif(not pg.installations(), reason="no PostgreSQL")

NOBODY = standby_names()
SMALL = {"fsync": "off", "shared_buffers": "16MB", "max_wal_size": "256MB"}


class Members:
    """Servers as the agents of a cluster would run them; nothing runs at first."""

    def __init__(self, root: Path) -> None:
        self.bin_dir, self.template, self.owner = pg.template_of(pg.installations()[0])
        self.root = root
        self.made: list[LocalServer] = []
        self.configs: dict[str, AgentConfig] = {}
        self.deadline = time.clock_gettime(time.CLOCK_BOOTTIME) + SERVERS_END_AFTER

    async def add(
        self,
        name: str,
        *,
        postgresql: dict[str, object] | None = None,
        bootstrap: dict[str, object] | None = None,
    ) -> LocalServer:
        """A member whose file says this in these sections, with its guard."""
        place = self.root / name
        for folder in (place, place / "log"):
            folder.mkdir(mode=0o711)
            if self.owner is not None:
                os.chown(folder, self.owner.uid, self.owner.gid)
        (place / "data.pgregent").mkdir(mode=0o711)
        content = {
            "scope": "demo",
            "name": name,
            "restapi": {"listen": "127.0.0.1:1"},
            "local": {"path": str(self.root / "dcs.sqlite")},
            "bootstrap": bootstrap or {},
            "postgresql": {
                "listen": f"127.0.0.1:{pg.free_port()}",
                "data_dir": str(place / "data"),
                "authentication": {
                    "superuser": {"username": pg.SUPERUSER, "password": pg.PASSWORD},
                    "replication": {"username": "replicator", "password": "r'e p"},
                },
                "parameters": SMALL,
                **(postgresql or {}),
            },
        }
        config, found = check_config(yaml.safe_dump(content), {})
        assert config is not None, found
        self.configs[name] = config
        server = LocalServer(
            server_of(config, config.bootstrap.dcs, self.bin_dir, custom_conf_of(config)),
            lambda path, size: None,
        )
        self.made.append(server)
        await server.open(lambda why: None)
        return server

    async def start_primary(self, server: LocalServer) -> None:
        pg.copy_tree(self.template, server.config.data_dir)
        await server.start("", "", None, False, self.deadline)
        await server.ensure_roles()

    async def start_standby(self, server: LocalServer, of: LocalServer) -> None:
        """Clone it and wait until it streams."""
        await server.clone(upstream(of))
        await self.restart_standby(server, of)

    async def restart_standby(self, server: LocalServer, of: LocalServer) -> None:
        """Start it and wait until it streams."""
        await server.start(label(server.config.name), NOBODY, upstream(of), True, self.deadline)
        await streams(server)


async def test_a_server_started_as_a_primary_is_closed_to_clients_until_it_admits_them(
    members: Members,
) -> None:
    server = await members.add("n1")
    await members.start_primary(server)
    conn = await sql.connect(sql.Server("127.0.0.1", server.config.port), pg.ADMIN, timeout=5)
    await conn.execute("CREATE ROLE client LOGIN PASSWORD 'c'")
    await sql.close(conn)
    client = sql.Credentials("client", "c")
    address = sql.Server("127.0.0.1", server.config.port)
    with pytest.raises(Unavailable, match=r"pg_hba\.conf"):
        await sql.connect(address, client, timeout=5)
    replica = await members.add("n2")
    await members.start_standby(replica, server)
    await server.admit()
    await sql.close(await sql.connect(address, client, timeout=5))
    await server.stop(immediate=True)
    await server.start("", "", None, False, members.deadline)
    with pytest.raises(Unavailable, match=r"pg_hba\.conf"):
        await sql.connect(address, client, timeout=5)
    await server.admit()
    await sql.close(await sql.connect(address, client, timeout=5))


def upstream(of: LocalServer) -> Upstream:
    return Upstream(of.config.name, "127.0.0.1", of.config.port)


async def streams(server: LocalServer) -> None:
    async def now() -> bool:
        return (await server.observe()).streaming

    await pg.eventually(f"{server.config.name} streams", now)


async def shown(server: LocalServer, query: LiteralString) -> list[tuple[object, ...]]:
    conn = await sql.connect(sql.Server("127.0.0.1", server.config.port), pg.ADMIN, timeout=5)
    try:
        return [tuple(row.values()) for row in await (await conn.execute(query)).fetchall()]
    finally:
        await sql.close(conn)


@pytest.fixture
async def members() -> AsyncIterator[Members]:
    owner = (await asyncio.to_thread(pg.template_of, pg.installations()[0]))[2]
    with pg.folder(owner) as root:
        made = Members(root)
        try:
            yield made
        finally:
            await asyncio.gather(*(end(server) for server in made.made))


async def test_the_password_file_is_where_pgpass_says(members: Members) -> None:
    """And is gone after a seal: without it no walreceiver gets in."""
    pgpass = members.root / "pgpass0"
    n1 = await members.add("n1")
    n2 = await members.add("n2", postgresql={"pgpass": str(pgpass)})
    await members.start_primary(n1)
    await n1.keep_slots(("n2",))
    assert not pgpass.exists()
    await members.start_standby(n2, n1)

    found = pgpass.stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert members.owner is None or found.st_uid == members.owner.uid
    assert ":replicator:" in pgpass.read_text()
    assert not (n2.config.state_dir / "upstream.pgpass").exists()
    assert str(pgpass) in str(await shown(n2, "SHOW primary_conninfo"))

    await n2.seal(1, NOBODY)
    assert not pgpass.exists()
    assert not (await n2.observe()).streaming
    await n2.follow(label("n2"), NOBODY, upstream(n1))
    await streams(n2)


async def test_without_slots_a_standby_streams_and_none_is_kept(members: Members) -> None:
    off: dict[str, object] = {"dcs": {"postgresql": {"use_slots": False}}}
    n1 = await members.add("n1", bootstrap=off)
    n2 = await members.add("n2", bootstrap=off)
    await members.start_primary(n1)
    # As a cluster leaves one whose members were told to do without afterwards.
    await shown(n1, "SELECT pg_create_physical_replication_slot('n2')")
    await n1.keep_slots(("n2",))
    await members.start_standby(n2, n1)
    assert await shown(n1, "SELECT slot_name FROM pg_replication_slots") == []
    assert await shown(n2, "SHOW primary_slot_name") == [("",)]


async def test_a_standby_keeps_what_its_primary_had_until_that_has_less(members: Members) -> None:
    """PostgreSQL refuses to start a standby with fewer locks than its primary had."""
    more = {"dcs": {"postgresql": {"parameters": {"max_locks_per_transaction": 96}}}}
    n1, n2 = await members.add("n1", bootstrap=more), await members.add("n2", bootstrap=more)
    await members.start_primary(n1)
    await n1.keep_slots(("n2",))
    await members.start_standby(n2, n1)
    for server in (n1, n2):
        parameters = {**server.config.parameters, "max_locks_per_transaction": "80"}
        await server.reconfigure(replace(server.config, parameters=parameters))
    query: LiteralString = "SHOW max_locks_per_transaction"
    await n2.stop(False)
    await members.restart_standby(n2, n1)
    assert await shown(n2, query) == [("96",)]
    await n1.stop(False)
    await n1.start("", "", None, False, members.deadline)
    assert await shown(n1, query) == [("80",)]

    async def replayed() -> bool:
        control = await asyncio.to_thread(wal.controldata, members.bin_dir, n2.config.data_dir)
        return control.max_locks_per_xact == 80

    await pg.eventually("n2 knows that its primary has less", replayed)
    await n2.stop(False)
    await members.restart_standby(n2, n1)
    assert await shown(n2, query) == [("80",)]


async def test_a_stop_that_hangs_gives_way_to_an_immediate_one(members: Members) -> None:
    """As when a restart takes long: a standby that does not answer holds a fast shutdown up."""
    n1, n2 = await members.add("n1"), await members.add("n2")
    await members.start_primary(n1)
    await n1.keep_slots(("n2",))
    await members.start_standby(n2, n1)
    ((receiver,),) = await shown(n2, "SELECT pid FROM pg_stat_wal_receiver")
    assert isinstance(receiver, int)
    os.kill(receiver, signal.SIGSTOP)
    try:
        log = n1.config.log_file
        fast = asyncio.create_task(n1.stop(False))

        async def begun() -> bool:
            return "received fast shutdown request" in log.read_text()

        await pg.eventually("it shuts down", begun)
        done, _ = await asyncio.wait({fast}, timeout=1.0)
        assert not done, "nothing held it up"
        fast.cancel()
        began = time.monotonic()
        await n1.stop(True)
        assert time.monotonic() - began < 5.0, "it waited for the standby"
        assert (await n1.observe()).state is PgState.STOPPED
    finally:
        os.kill(receiver, signal.SIGCONT)
    await n1.start("", "", None, False, members.deadline)


async def test_slots_that_are_kept_and_left_alone(members: Members) -> None:
    dcs = {
        "slots": {"barman": {"type": "physical"}, "receiver": None},
        "ignore_slots": [{"name": "theirs", "type": "physical"}, {"name": "x", "plugin": "p"}],
    }
    n1 = await members.add("n1", bootstrap={"dcs": dcs})
    await members.start_primary(n1)
    for name in ("theirs", "x", "of_nobody"):
        await shown(n1, f"SELECT pg_create_physical_replication_slot('{name}')")
    await n1.keep_slots(("n2",))
    names = "SELECT slot_name FROM pg_replication_slots ORDER BY slot_name"
    assert await shown(n1, names) == [("barman",), ("n2",), ("receiver",), ("theirs",)]


async def test_initdb_takes_options(members: Members) -> None:
    options = ["allow-group-access", {"encoding": "LATIN1"}, {"locale": "C"}]
    n1 = await members.add("n1", bootstrap={"initdb": options})
    await n1.initdb()
    data = n1.config.data_dir
    assert stat.S_IMODE(data.stat().st_mode) == 0o750
    assert wal.controldata(members.bin_dir, data).shut_down
    await n1.start("", "", None, False, members.deadline)
    query: LiteralString = (
        "SELECT pg_encoding_to_char(encoding), datcollate FROM pg_database ORDER BY datname"
    )
    assert set(await shown(n1, query)) == {("LATIN1", "C")}


async def test_parameters_of_the_member_win_except_the_clusters(members: Members) -> None:
    theirs = {"work_mem": "5MB", "maintenance_work_mem": "70MB", "max_connections": 33}
    n1 = await members.add(
        "n1",
        postgresql={"parameters": {**SMALL, "work_mem": "6MB", "max_connections": 44}},
        bootstrap={"dcs": {"postgresql": {"parameters": theirs}}},
    )
    await members.start_primary(n1)
    query: LiteralString = (
        "SELECT name, current_setting(name) AS value FROM pg_settings WHERE name IN"
        " ('work_mem', 'maintenance_work_mem', 'max_connections')"
    )
    assert dict(await shown(n1, query)) == {
        "work_mem": "6MB",
        "maintenance_work_mem": "70MB",
        "max_connections": "33",
    }


async def test_pg_hba_is_the_first_that_is_given(members: Members) -> None:
    def hba(marker: str) -> list[str]:
        return [f"host all {marker} 10.0.0.1/32 reject", "host all all 127.0.0.1/32 scram-sha-256"]

    own: dict[str, object] = {"pg_hba": hba("own")}
    dcs: dict[str, object] = {"dcs": {"postgresql": {"pg_hba": hba("dcs")}}}
    last: dict[str, object] = {"pg_hba": hba("last")}
    made = {
        "own": await members.add("n1", postgresql=own, bootstrap=dcs | last),
        "dcs": await members.add("n2", bootstrap=dcs | last),
        "last": await members.add("n3", bootstrap=last),
    }
    for marker, server in made.items():
        await members.start_primary(server)
        await server.admit()
        rules = await shown(server, "SELECT user_name[1] FROM pg_hba_file_rules ORDER BY 1")
        assert rules == [("all",), (marker,)]


async def test_a_start_is_given_up_after_primary_start_timeout(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "START_TIMEOUT_MIN", 0.1)
    n1 = await members.add(
        "n1",
        # Nobody who connects hears anything.
        postgresql={"parameters": {**SMALL, "pre_auth_delay": 30}},
        bootstrap={"dcs": {"primary_start_timeout": 1.5}},
    )
    pg.copy_tree(members.template, n1.config.data_dir)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="not started in"):
        await n1.start("", "", None, False, members.deadline)
    assert 1.5 <= time.monotonic() - began < 8
    assert (await n1.observe()).state is PgState.UNKNOWN


async def test_a_shutdown_does_not_wait_for_an_archiver_that_keeps_failing(
    members: Members,
) -> None:
    """PostgreSQL would have it try three times, a second apart."""
    failing = {"archive_mode": "on", "archive_command": "false", **SMALL}
    n1 = await members.add("n1", postgresql={"parameters": failing})
    await members.start_primary(n1)
    await shown(n1, "SELECT pg_switch_wal()")
    await n1.stop(False)
    _, _, after = n1.config.log_file.read_text().partition("received fast shutdown request")
    assert after.count("archive command failed") <= 2
    assert (await n1.observe()).checkpoint_lsn
