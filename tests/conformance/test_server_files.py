"""PostgreSQL's own files, as a member's configuration has them."""

import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import LiteralString

import pytest

from pgregent.adapters.postgres import render, sql, tools
from pgregent.adapters.postgres.check import check_configuration, check_files
from pgregent.adapters.postgres.server import LocalServer
from pgregent.agent.reload import Hooks, Reload
from pgregent.agent.wiring import custom_conf_of, server_of
from pgregent.config.dynamic import Dcs
from pgregent.config.load import Loaded
from pgregent.config.schema import AgentConfig, Credentials
from pgregent.core.errors import Refused, Unavailable
from tests.api.certificates import Authority
from tests.conformance import pg
from tests.conformance.test_settings import (
    NOBODY,
    SMALL,
    Members,
    members,
    shown,
    streams,
    upstream,
)
from tests.conformance.trio import label

pytestmark = pytest.mark.skipif(not pg.installations(), reason="no PostgreSQL")

__all__ = ["members"]

HBA = ["host all all 127.0.0.1/32 scram-sha-256", "host replication all all scram-sha-256"]
ME = pwd.getpwuid(os.geteuid()).pw_name


async def values(server: LocalServer) -> dict[str, str]:
    """All of its parameters."""
    query: LiteralString = "SELECT name, current_setting(name) FROM pg_settings"
    return {str(name): str(value) for name, value in await shown(server, query)}


async def run(server: LocalServer, command: LiteralString) -> None:
    conn = await sql.connect(sql.Server("127.0.0.1", server.config.port), pg.ADMIN, timeout=5)
    try:
        await conn.execute(command)
    finally:
        await sql.close(conn)


async def test_pg_ident_says_who_may_be_whom(members: Members) -> None:
    """A member's own lines take the place of all members'."""
    sockets = members.root / "s"
    sockets.mkdir()
    sockets.chmod(0o777)
    server = await members.add(
        "n1",
        postgresql={
            "parameters": {**SMALL, "unix_socket_directories": str(sockets)},
            "pg_hba": ["local all all peer map=staff", *HBA],
            "pg_ident": [f"staff {ME} own"],
        },
        bootstrap={"dcs": {"postgresql": {"pg_ident": [f"staff {ME} common"]}}},
    )
    await members.start_primary(server)
    await run(server, "CREATE ROLE own LOGIN; CREATE ROLE common LOGIN")

    async def gets_in(role: str) -> bool:
        address = sql.Server(str(sockets), server.config.port)
        try:
            await sql.close(await sql.connect(address, sql.Credentials(role, ""), timeout=5))
        except Unavailable as error:
            assert "Peer authentication failed" in error.reason or "pg_hba.conf" in error.reason
            return False
        return True

    assert not await gets_in("own"), "a primary that is not admitted yet lets it in"
    await server.admit()
    assert await gets_in("own") and not await gets_in("common")
    await server.reconfigure(replace(server.config, pg_ident=(f"staff {ME} common",)))

    async def others() -> bool:
        return await gets_in("common")

    await pg.eventually("the other lines count", others)
    assert not await gets_in("own")


HOSTILE: Mapping[str, str] = {
    "cluster_name": "theirs",
    "fsync": "off",
    "full_page_writes": "off",
    "hba_file": "/nowhere/pg_hba.conf",
    "hot_standby": "off",
    "ident_file": "/nowhere/pg_ident.conf",
    "listen_addresses": "",
    "logging_collector": "on",
    "max_connections": "33",
    "max_wal_senders": "0",
    "port": "1",
    "primary_conninfo": "host=nowhere",
    "primary_slot_name": "theirs",
    "recovery_end_command": "false",
    "recovery_target": "immediate",
    "recovery_target_timeline": "current",
    "restart_after_crash": "on",
    "restore_command": "false",
    "synchronous_commit": "off",
    "synchronous_standby_names": "nobody",
    "track_commit_timestamp": "on",
    "wal_level": "minimal",
    "wal_log_hints": "off",
    "wal_retrieve_retry_interval": "60s",
}
TRIGGER_FILE = {"promote_trigger_file": "/tmp"}


async def test_custom_conf_takes_the_place_of_the_original(members: Members) -> None:
    """It wins over pgregent's defaults, the parameters over it, and what pgregent relies on over
    everything."""
    old = (members.template / "PG_VERSION").read_text().strip() < "16"
    hostile = {**HOSTILE, **(TRIGGER_FILE if old else {})}
    custom = members.root / "custom.conf"
    custom.write_text(
        "wal_sender_timeout = 33s\nwork_mem = 7MB\ntemp_buffers = 9MB\nInclude 'more.conf' # more\n"
        + "".join(f"{name} = '{value}'\n" for name, value in hostile.items())
    )
    (members.root / "more.conf").write_text("maintenance_work_mem = 70MB\n")
    parameters = {"shared_buffers": "16MB", "temp_buffers": "8MB"}
    section: dict[str, object] = {"custom_conf": str(custom), "parameters": parameters}
    n1 = await members.add("n1", postgresql=section)
    n2 = await members.add("n2", postgresql=section)
    await check_configuration(n1.config)
    await members.start_primary(n1)
    await n1.keep_slots(("n2",))
    await members.start_standby(n2, n1)
    for server in (n1, n2):
        found = await values(server)
        assert {name: found[name] for name in hostile if found[name] == hostile[name]} == {}
        assert (found["wal_sender_timeout"], found["work_mem"]) == ("33s", "7MB")
        assert (found["temp_buffers"], found["maintenance_work_mem"]) == ("8MB", "70MB")


async def test_a_changed_custom_conf_is_taken_once_the_parser_has_seen_it(members: Members) -> None:
    custom = members.root / "custom.conf"
    custom.write_text("work_mem = 7MB\n")
    server = await members.add("n1", postgresql={"custom_conf": str(custom)})
    await members.start_primary(server)
    elsewhere = members.root / "elsewhere"
    for line, complaint in (
        ("work_mem = = 1MB", "syntax error line 2"),
        ("work_memory = 8MB", 'unrecognized configuration parameter "work_memory" line 2'),
        ("include 'nothing.conf'", "could not open configuration file"),
        (f"data_directory = '{elsewhere}'", f"found data_directory {elsewhere}, expected none"),
    ):
        custom.write_text(f"work_mem = 8MB\n{line}\n")
        changed = replace(server.config, custom_conf=render.custom_conf(custom))
        with pytest.raises(Refused, match=r"postgresql\.custom_conf: ") as caught:
            await check_files(changed)
        assert complaint in str(caught.value)
    # A start, too, takes what was right last.
    await server.stop(immediate=True)
    await server.start("", "", None, False, members.deadline)
    assert (await values(server))["work_mem"] == "7MB"
    custom.write_text(f"work_mem = 8MB\ndata_directory = '{server.config.data_dir}'\n")
    changed = replace(server.config, custom_conf=render.custom_conf(custom))
    await check_files(changed)
    await server.reconfigure(changed)

    async def taken() -> bool:
        return (await values(server))["work_mem"] == "8MB"

    await pg.eventually("it is taken", taken)
    with pytest.raises(Refused, match=r"custom_conf: cannot read .*nothing: No such file"):
        render.custom_conf(members.root / "nothing")


async def test_config_dir_has_postgresqls_files(members: Members) -> None:
    """Also for what pg_rewind starts: n1 crashed."""
    with pytest.raises(Refused, match=r"config_dir .*nowhere: found no directory"):
        nowhere = members.root / "nowhere"
        await check_files((await members.add("n0", postgresql={"config_dir": str(nowhere)})).config)
    n1, n2 = [await with_config_dir(members, name) for name in ("n1", "n2")]
    await members.start_primary(n1)
    await n1.keep_slots(("n2",))
    await members.start_standby(n2, n1)
    for server in (n1, n2):
        folder, found = str(server.config.config_dir), await values(server)
        files = {found[name] for name in ("config_file", "hba_file", "ident_file")}
        assert {os.path.dirname(file) for file in files} == {folder}
        assert (found["work_mem"], found["temp_buffers"]) == ("7MB", "9MB")
        assert not (server.config.data_dir / render.ROLE_CONF).exists()
    await n2.seal(1, NOBODY)
    await n2.promote(2, "")
    await n1.stop(immediate=True)
    await n2.checkpoint()
    (n1.config.data_dir / "postgresql.conf").unlink()
    if tools.postgres_version(members.bin_dir).major < 15:
        return  # Its pg_rewind cannot be told where the file is.
    await n1.rewind(upstream(n2))
    await n1.start(label("n1"), NOBODY, upstream(n2), True, members.deadline)
    await streams(n1)


async def test_config_dir_counts_from_the_servers_next_start(members: Members) -> None:
    """Until then it reads its files where they were when it was started."""
    server = await members.add("n1")
    await members.start_primary(server)
    later = (await with_config_dir(members, "n2")).config.config_dir
    await server.close()
    successor = LocalServer(replace(server.config, config_dir=later), lambda path, size: None)
    members.made.append(successor)
    await successor.open(lambda why: None)
    await successor.admit()
    await successor.apply_names("n9", checkpoint=False)
    assert os.path.dirname((await values(successor))["config_file"]) == str(server.config.data_dir)
    await successor.stop(immediate=True)
    await successor.start("", "", None, False, members.deadline)
    assert os.path.dirname((await values(successor))["config_file"]) == str(later)


async def with_config_dir(members: Members, name: str) -> LocalServer:
    """A member whose original postgresql.conf is elsewhere, like a Debian package's."""
    folder = members.root / f"{name}.conf"
    folder.mkdir()
    if members.owner is not None:
        os.chown(folder, members.owner.uid, members.owner.gid)
    (folder / "postgresql.conf").write_text("work_mem = 7MB\ntemp_buffers = 8MB\n")
    parameters = {**SMALL, "temp_buffers": "9MB"}
    section: dict[str, object] = {"config_dir": str(folder), "parameters": parameters}
    return await members.add(name, postgresql=section)


def process_of(owner: render.Owner | None) -> "subprocess.Popen[bytes]":
    """Some other process of PostgreSQL's user."""
    return subprocess.Popen(["sleep", "600"], user=owner.uid if owner is not None else None)


async def test_use_unix_socket_is_how_the_agent_connects(members: Members) -> None:
    """Once the server was started with it."""
    by_tcp = {"pg_hba": HBA, "parameters": {**SMALL, "unix_socket_directories": "."}}
    server = await members.add("n1", postgresql={**by_tcp})
    await members.start_primary(server)
    assert await clients(server) == {"127.0.0.1"}
    config = replace(server.config, use_unix_socket=True)
    with pytest.raises(Refused, match="found no line `local all admin"):
        await check_files(config)
    for line in ("local all admin reject", "local replication all trust"):
        with pytest.raises(Refused, match="found no line `local all admin"):
            await check_files(replace(config, pg_hba=(line, *HBA)))
    config = replace(config, pg_hba=("local all admin scram-sha-256", *HBA))
    await check_files(config)
    await server.close()
    (server.config.socket_dir / f".s.PGSQL.{config.port}").rename(members.root / "away")
    successor = LocalServer(config, lambda path, size: None)
    members.made.append(successor)
    await successor.open(lambda why: None)

    async def answers() -> bool:
        return (await successor.observe()).position is not None

    await pg.eventually("it is seen by TCP", answers)
    assert await clients(successor) == {"127.0.0.1"}
    await successor.stop(immediate=False)
    # As after a power cut: the process that has the number now is another one.
    left = server.config.socket_dir / f".s.PGSQL.{config.port}.lock"
    with process_of(config.owner) as another:
        try:
            lines = (another.pid, config.data_dir, 1, config.port, left.parent, "")
            left.write_text("".join(f"{line}\n" for line in lines))
            await successor.start("", "", None, False, members.deadline)
        finally:
            another.kill()
    await successor.admit()
    await successor.checkpoint()
    assert await clients(successor) == {None}


async def clients(server: LocalServer) -> set[object]:
    """Where it is connected to from by its agent."""
    rows = await shown(
        server,
        "SELECT host(client_addr) FROM pg_stat_activity"
        " WHERE application_name = 'pgregent' AND pid <> pg_backend_pid()",
    )
    return {row[0] for row in rows}


async def test_basebackup_options_are_pg_basebackups(members: Members) -> None:
    """A member's own take the place of all members'."""
    common: dict[str, object] = {"label": "common", "max-rate": "100M"}
    dcs: dict[str, object] = {"dcs": {"postgresql": {"basebackup": common}}}
    n1 = await members.add("n1")
    await members.start_primary(n1)
    n2 = await members.add("n2", bootstrap=dcs)
    own: dict[str, object] = {"basebackup": ["no-manifest", {"label": "of its own"}]}
    n3 = await members.add("n3", postgresql=own, bootstrap=dcs)
    for server, label_, manifest in ((n2, "common", True), (n3, "of its own", False)):
        await server.clone(upstream(n1))
        found = (server.config.data_dir / "backup_label").read_text()
        assert f"LABEL: {label_}\n" in found
        assert (server.config.data_dir / "backup_manifest").exists() == manifest


async def test_a_clean_stop_is_cut_short_after_pg_ctl_timeout(members: Members) -> None:
    """It waits for a standby that does not confirm the last WAL."""
    parameters = {**SMALL, "wal_sender_timeout": 0}
    n1 = await members.add("n1", postgresql={"parameters": parameters, "pg_ctl_timeout": 1.5})
    n2 = await members.add("n2", bootstrap={"dcs": {"postgresql": {"pg_ctl_timeout": 20}}})
    assert n2.config.stop_timeout == 20
    await members.start_primary(n1)
    await n1.keep_slots(("n2",))
    await members.start_standby(n2, n1)
    ((receiver,),) = await shown(n2, "SELECT pid FROM pg_stat_wal_receiver")
    assert isinstance(receiver, int)
    os.kill(receiver, signal.SIGSTOP)
    try:
        began = time.monotonic()
        await n1.stop(immediate=False)
        assert 1.5 <= time.monotonic() - began < 15
    finally:
        os.kill(receiver, signal.SIGCONT)


class Tls:
    """Servers that nobody enters without TLS and a certificate."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self.authority = Authority(members.root)
        self.server = self.certificate("server", "DNS:elsewhere")
        users = {"superuser": pg.SUPERUSER, "replication": "replicator", "rewind": "rewinder"}
        self.roles = {role: self._role(user) for role, user in users.items()}

    def certificate(self, name: str, names: str) -> dict[str, str]:
        """Its file and its key's, for PostgreSQL's user to read."""
        files = self.authority.issue(name, names)
        for file in files:
            file.chmod(0o600)
            if self._members.owner is not None:
                os.chown(file, self._members.owner.uid, self._members.owner.gid)
        return {"sslcert": str(files[0]), "sslkey": str(files[1])}

    def _role(self, user: str) -> dict[str, str]:
        named = {"username": user, "password": pg.PASSWORD}
        checks = {"sslmode": "verify-ca", "sslrootcert": str(self.authority.file)}
        return {**named, **checks, **self.certificate(user, f"DNS:{user}")}

    async def add(self, name: str) -> LocalServer:
        """A member."""
        client = "all all scram-sha-256 clientcert=verify-full"
        section: dict[str, object] = {
            "authentication": self.roles,
            "pg_hba": [
                *(f"hostssl all {client}", f"hostssl replication {client}"),
                "hostnossl template1 all all scram-sha-256",
            ],
            "parameters": {
                **SMALL,
                "log_connections": True,
                "ssl": True,
                "ssl_ca_file": str(self.authority.file),
                "ssl_cert_file": self.server["sslcert"],
                "ssl_key_file": self.server["sslkey"],
            },
        }
        return await self._members.add(name, postgresql=section)


async def test_each_role_connects_as_it_is_told(members: Members) -> None:
    """The agent, pg_basebackup, the standby and pg_rewind, each with its own certificate."""
    tls = Tls(members)
    n1, n2 = [await tls.add(name) for name in ("n1", "n2")]
    await members.start_primary(n1)
    await n1.keep_slots(("n2",))
    await members.start_standby(n2, n1)
    await n2.seal(1, NOBODY)
    await n2.promote(2, "")
    await n1.stop(immediate=True)
    await n1.rewind(upstream(n2))
    assert "user=replicator application_name=pgregent_basebackup SSL" in logged(n1)
    assert "user=rewinder database=postgres application_name=pgregent_rewind SSL" in logged(n2)


def logged(server: LocalServer) -> str:
    return re.sub(" +", " ", server.config.log_file.read_text())


async def test_what_a_connection_is_told_counts(members: Members) -> None:
    tls = Tls(members)
    server = await tls.add("n1")
    await members.start_primary(server)
    revoked, folder = tls.authority.revoke(Path(tls.server["sslcert"]))
    for options, complaint in (
        ({"sslmode": "disable"}, "no encryption"),
        ({"sslmode": "verify-full"}, "does not match host name"),
        ({"sslrootcert": tls.server["sslcert"]}, "certificate verify failed"),
        (tls.server, "authentication failed"),
        ({"sslcrl": str(revoked)}, "certificate verify failed"),
        ({"sslcrldir": str(folder)}, "certificate verify failed"),
        ({"gssencmode": "require"}, "GSSAPI"),
    ):
        assert complaint in await refusal(server, {**tls.roles["superuser"], **options}), options
    bound = {"sslmode": "disable", "channel_binding": "require"}
    said = await refusal(server, {**tls.roles["superuser"], **bound}, "template1")
    assert "channel binding required" in said


async def refusal(server: LocalServer, role: Mapping[str, str], dbname: str = "postgres") -> str:
    """Why the superuser, told this, cannot connect."""
    told = Credentials.model_validate(role).connection
    with pytest.raises(Unavailable) as caught:
        superuser = replace(server.config.superuser, options=told)
        await sql.connect(server.config.local, superuser, timeout=5, dbname=dbname)
    return caught.value.reason


async def test_a_reload_takes_what_is_right(members: Members) -> None:
    """And says what only the agent's own start takes."""
    custom = members.root / "custom.conf"
    custom.write_text("work_mem = 7MB\n")
    section: dict[str, object] = {"custom_conf": str(custom), "parameters": {}}
    server = await members.add("n1", postgresql=section)
    await members.start_primary(server)
    changed = members.configs["n1"]

    async def reloaded(**keys: object) -> tuple[str, ...]:
        nonlocal changed
        postgresql = changed.postgresql.model_copy(update=keys)
        changed = changed.model_copy(update={"postgresql": postgresql})
        return await reload.file()

    async def prepare(
        config: AgentConfig, dynamic: Dcs, *, files: bool
    ) -> Callable[[], Awaitable[None]]:
        wanted = server_of(config, dynamic, members.bin_dir, custom_conf_of(config))
        await check_configuration(wanted)
        return partial(server.reconfigure, wanted)

    def ignore(*_: object) -> None:
        pass

    hooks = Hooks(lambda: Loaded(changed, (), ()), prepare, ignore, ignore)
    reload = Reload(changed, changed.bootstrap.dcs, server, hooks)
    custom.write_text("work_memory = 8MB\n")
    with pytest.raises(Refused, match=r"postgresql\.custom_conf: PostgreSQL would not start"):
        await reloaded()
    custom.write_text("work_mem = 8MB\n")
    with pytest.raises(Refused, match="pg_hba: found no line `local all admin"):
        await reloaded(use_unix_socket=True, pg_hba=tuple(HBA))
    lines = ("local all all scram-sha-256", *HBA)
    said = await reloaded(pg_hba=lines, pg_ctl_timeout=5.0, basebackup=("no-manifest",))
    assert said == ("postgresql.use_unix_socket was changed: restart the agent to use it",)
    assert (server.config.stop_timeout, server.config.basebackup) == (5, ("--no-manifest",))

    async def taken() -> bool:
        return (await values(server))["work_mem"] == "8MB"

    await pg.eventually("custom_conf is taken", taken)
