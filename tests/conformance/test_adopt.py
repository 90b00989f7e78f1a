"""`pgregent adopt` and `release` on one host: a PostgreSQL started by hand, and what Patroni leaves
in etcd. tests/patroni/test_adopt.py has Patroni itself."""

import asyncio
import json
import os
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pgregent.adapters.postgres import render
from pgregent.agent.codec import decode, encode
from pgregent.agent.store import Store
from pgregent.cli import main as program
from pgregent.config.lockfile import hold_lock
from pgregent.core.types import Register
from tests.cluster.command import Finished, run_cli
from tests.cluster.processes import kill_all_of
from tests.conformance import etcd_servers, pg
from tests.conformance.etcd_servers import EtcdServer

pytestmark = pytest.mark.skipif(not pg.installations(), reason="no PostgreSQL")

BASE = "/service/demo"
CONFIG = {"synchronous_mode": True, "pause": True, "loop_wait": 10}
THEIRS = {"api_url": "http://127.0.0.1:1/patroni", "state": "running"}


def _at_once(*command: str) -> Finished:
    """The same in this process, which is quicker."""
    done = CliRunner().invoke(program.main, command)
    assert isinstance(done.exception, SystemExit | None), done.exc_info
    return Finished(done.exit_code, done.stdout, done.stderr)


class Host:
    """A member's host: its server, its file, and the store."""

    def __init__(self, etcd: EtcdServer, server: pg.Pg) -> None:
        self.etcd, self.server = etcd, server
        self.data_dir = server.data_dir
        self.state_dir = server.data_dir.with_name(f"{server.name}.pgregent")
        self.file = server.data_dir.with_name(f"{server.name}.yml")
        self.write()

    def write(self, **changes: Any) -> None:
        content = {
            "scope": "demo",
            "name": self.server.name,
            "restapi": {"listen": f"127.0.0.1:{pg.free_port()}"},
            "etcd3": {"host": self.etcd.host},
            "postgresql": {
                "listen": f"127.0.0.1:{self.server.port}",
                "data_dir": str(self.data_dir),
                "bin_dir": str(self.server.bin_dir),
                "authentication": {
                    "superuser": {"username": pg.SUPERUSER, "password": pg.PASSWORD},
                    "replication": {"username": pg.SUPERUSER, "password": pg.PASSWORD},
                },
                "parameters": {"fsync": True},
            },
            **changes,
        }
        self.file.write_text(yaml.safe_dump(content))

    def put(self, **keys: object) -> None:
        for key, value in keys.items():
            text = value if isinstance(value, str) else json.dumps(value)
            etcd_servers.put(self.etcd, f"{BASE}/{key.replace('__', '/')}", text.encode())

    def remove(self, key: str) -> None:
        self.etcd.ask("kv/deleterange", {"key": etcd_servers.text(f"{BASE}/{key}")})

    def value(self, key: str) -> bytes | None:
        message = {"key": etcd_servers.text(f"{BASE}/{key}")}
        found = self.etcd.ask("kv/range", message).get("kvs", [])
        return b64decode(found[0]["value"]) if found else None

    def register(self) -> Register | None:
        found = self.value("pgregent/register")
        return decode(Register, found, "the DCS") if found is not None else None

    def revision(self) -> str:
        """Of the store: it grows with every write."""
        return self.etcd.ask("kv/range", {"key": etcd_servers.text("x")})["header"]["revision"]

    async def run(self, *command: str) -> Finished:
        asked = run_cli if command == ("agent",) else _at_once
        done = await asyncio.to_thread(asked, *command, str(self.file))
        assert "Traceback" not in done.message
        assert pg.PASSWORD not in done.message
        return done

    async def refused(self, command: str, why: str) -> None:
        """It says so, and nothing was touched."""
        before = self.revision(), self._files(), self.server.process and self.server.process.pid
        done = await self.run(command)
        assert (done.code, done.out) == (2, ""), done.message
        assert why in done.err, done.err
        assert before[:2] == (self.revision(), self._files())
        assert self.server.process is None or self.server.process.poll() is None

    def _files(self) -> dict[Path, bytes]:
        """What there is beside the server's own."""
        found: dict[Path, bytes] = {}
        for folder in (self.state_dir, self.data_dir):
            for path in folder.glob("*") if folder.exists() else ():
                if path.is_file() and path.suffix in (".conf", ".signal", ".json"):
                    with suppress(FileNotFoundError):
                        found[path] = path.read_bytes()
        return found


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    etcd_servers.skip_if_missing()
    shared = etcd_servers.shared()
    yield shared


@pytest.fixture
def servers() -> Iterator[pg.Servers]:
    with pg.servers_of(pg.installations()[0]) as made:
        try:
            yield made
        finally:
            made.close()
            # An agent that ought to have refused has a guard.
            kill_all_of(made.root)


@pytest.fixture
async def host(etcd: EtcdServer, servers: pg.Servers) -> Host:
    """Patroni's primary, after Patroni ended."""
    made = Host(etcd, await servers.primary("a"))
    status = await made.server.status()
    made.put(
        initialize=str(status.system_identifier),
        config=CONFIG,
        sync={"leader": "a", "sync_standby": "b"},
        status={"optime": status.flush_lsn},
        history=[],
    )
    return made


async def test_what_could_lose_commits_is_refused(host: Host) -> None:
    host.put(members__b=THEIRS)
    await host.refused("adopt", f"keys under {BASE}: Patroni still runs in this scope: found the")
    host.remove("members/b")
    host.put(leader="a")
    await host.refused("adopt", "found the keys of a, expected none")
    host.remove("leader")
    identifier = str((await host.server.status()).system_identifier)
    host.remove("initialize")
    await host.refused("adopt", "no key `initialize` of Patroni's in this scope")
    host.put(initialize="77")
    await host.refused("adopt", f"has system identifier {identifier}, the cluster in this scope 77")
    host.put(initialize=identifier, sync={"leader": "b", "sync_standby": "a"})
    await host.refused("adopt", "Patroni's last primary is b, by its key `sync`, and not a")
    host.put(sync={"leader": None, "sync_standby": None})
    await host.refused("adopt", "Patroni's key `sync` names no primary, though synchronous_mode")
    host.remove("sync")
    await host.refused("adopt", "Patroni's key `sync` names no primary, though synchronous_mode")
    host.put(sync={"leader": "a"}, history=[[1, 25000000, "no recovery target specified"]])
    await host.refused("adopt", "on timeline 1, and Patroni's key `history` shows that timeline 2")
    host.put(history=[], status={"optime": 1 << 40})
    await host.refused("adopt", "before the position in Patroni's key `status`")


async def test_what_no_agent_could_run_with_is_refused(host: Host) -> None:
    host.put(config={**CONFIG, "synchronous_mode": False})
    await host.refused("adopt", "synchronous_mode: found off, expected on")
    host.put(config={**CONFIG, "slots": {"x": {"type": "logical"}}})
    await host.refused("adopt", "slots")
    host.put(config={**CONFIG, "postgresql": {"parameters": {"work_mem": "much"}}})
    await host.refused("adopt", "work_mem")
    host.put(config=CONFIG)
    host.write(consul={"host": "x"})
    await host.refused("adopt", f"{host.file}:1: consul")
    host.write(etcd3=None, local={"path": str(host.file.with_suffix(".sqlite"))})
    await host.refused("adopt", "local: Patroni has no such DCS")
    assert not host.file.with_suffix(".sqlite").exists()
    host.write()
    host.server.stop()
    aside = host.data_dir.rename(host.data_dir.with_name("elsewhere"))
    await host.refused("adopt", "no data directory there")
    aside.rename(host.data_dir)
    host.server.signal_all(9)


async def test_a_standby_waits_for_its_primary(host: Host, servers: pg.Servers) -> None:
    standby = Host(host.etcd, await servers.standby("b", host.server))
    await standby.refused("adopt", "a standby's: adopt the primary first: it is a")
    assert (await host.run("adopt")).code == 0
    done = await standby.run("adopt")
    assert done.code == 0 and "b is adopted as a standby" in done.out, done.message
    again = await standby.run("adopt")
    assert again.code == 0, again.message
    standby.server.stop()
    await standby.refused("release", "release the primary's host first, which is a's")


async def test_adopted_released_and_adopted_again(host: Host) -> None:
    hba = "# by hand\nhost all all 127.0.0.1/32 scram-sha-256\n"
    render.write_file(host.data_dir / "pg_hba.conf", hba, host.server.owner)
    done = await host.run("adopt")
    assert done.code == 0 and "a is adopted as the primary" in done.out, done.message
    first, durable = host.register(), Store(host.state_dir).load("a")
    assert first is not None and first.primary == durable.incarnation
    assert (first.term, durable.register, durable.promoted) == (1, first, 1)
    assert json.loads(host.value("config") or b"") == {"synchronous_mode": True, "loop_wait": 10}
    assert host.server.process and host.server.process.poll() is None, "it serves until its agent"
    again = await host.run("adopt")
    assert again.code == 0 and "nothing to be done: a is the primary" in again.out, again.message
    assert host.register() == first
    with_agent = hold_lock(host.state_dir / "agent.lock")
    await host.refused("adopt", f"an agent runs here (process {os.getpid()})")
    with_agent.release()
    await host.refused("release", "PostgreSQL runs there (process")
    host.server.stop()
    host.put(members__b={**THEIRS, "pgregent": "1"})
    await host.refused("release", "agents of this cluster still run: b")
    host.remove("members/b")
    held = replace(first, seq=first.seq + 1)
    host.put(pgregent__register=encode(held).decode())
    done = await host.run("release")
    assert done.code == 0, done.message
    released = host.register()
    assert released is not None and released.released and released.seq == held.seq + 1
    (aside,) = host.state_dir.parent.glob("a.pgregent.released-*")
    assert Store(aside).load("a") == durable and not host.state_dir.exists()
    assert (host.data_dir / "pg_hba.conf").read_text() == hba
    assert json.loads(host.value("sync") or b"")["sync_standby"] is None
    done = await host.run("release")
    assert done.code == 0 and "nothing to be done" in done.out, done.message
    agent = await host.run("agent")
    assert agent.code == 2, agent.message
    assert "given back to Patroni on a's host; `pgregent adopt` takes it over" in agent.err
    done = await host.run("adopt")
    assert done.code == 0, done.message
    second = host.register()
    assert second is not None and second.seq > released.seq and second.primary != first.primary


async def test_patroni_was_started_again_before_the_agents(host: Host) -> None:
    """And made b the primary: a's agent leaves what runs alone, and the adoption can be undone."""
    hba = "# by hand\nhost all all 127.0.0.1/32 scram-sha-256\n"
    for name in ("pg_hba.conf", "postgresql.conf"):
        file = host.data_dir / name
        text = hba if name == "pg_hba.conf" else f"# Patroni's\n{file.read_text()}"
        render.write_file(file, text, host.server.owner)
    assert (await host.run("adopt")).code == 0
    host.put(sync={"leader": "b", "sync_standby": "a"})
    agent = await host.run("agent")
    assert agent.code == 2 and "by its keys b was made the primary since" in agent.err
    assert host.server.process and host.server.process.poll() is None
    done = await host.run("release")
    assert done.code == 0, done.message
    register = host.register()
    assert register is not None and register.released and not host.state_dir.exists()
    assert json.loads(host.value("sync") or b"")["leader"] == "b"
    assert (host.data_dir / "pg_hba.conf").read_text() == hba
    assert host.server.process.poll() is None


async def test_interrupted_before_the_register_was_written(host: Host) -> None:
    """The state is on disk, and an agent that is started with it does nothing."""
    host.write(etcd3={"hosts": [host.etcd.host]})
    done = await host.run("adopt")
    assert done.code == 0, done.message
    first = Store(host.state_dir).load("a")
    host.remove("pgregent/register")
    for slot in host.state_dir.glob("state.*.json"):
        slot.unlink()
    store = Store(host.state_dir)
    store.save(type(first)(first.incarnation, promoted=1))
    agent = await host.run("agent")
    assert agent.code == 1 and "PostgreSQL runs in" in agent.message, agent.message
    assert host.server.process and host.server.process.poll() is None
    assert (await host.run("adopt")).code == 0
    register = host.register()
    assert register is not None and register.primary == first.incarnation


async def test_no_agent_ends_a_server_of_which_it_knows_no_cluster(host: Host) -> None:
    """Patroni's, for one, when an agent is started before `adopt`."""
    for key in ("initialize", "sync", "status", "history"):
        host.remove(key)
    host.put(config={"synchronous_mode": True})
    agent = await host.run("agent")
    assert agent.code == 1, agent.message
    assert "which pgregent did not start" in agent.message
    assert host.server.process and host.server.process.poll() is None


async def test_no_cluster_is_made_where_patroni_has_one(host: Host) -> None:
    """As on a host whose disk is not mounted, or that Patroni has not cloned yet."""
    host.put(config={"synchronous_mode": True})
    host.server.stop()
    aside = host.data_dir.rename(host.data_dir.with_name("elsewhere"))
    agent = await host.run("agent")
    assert agent.code == 1, agent.message
    assert "`pgregent adopt` takes it over" in agent.message
    assert not host.data_dir.exists() and host.register() is None
    aside.rename(host.data_dir)
