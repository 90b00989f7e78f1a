"""`pgregent adopt` and `release` beside another of them, after one that was interrupted, and where
an agent left something behind."""

import json
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from pgregent.adapters.postgres import render
from pgregent.adapters.postgres.guard_client import guard_runs, postmaster_of, remember_pid_file
from pgregent.agent.codec import encode
from pgregent.agent.store import Store
from pgregent.cli import adopt
from pgregent.core.types import NOBODY, Stage
from tests.cluster.command import COMMAND, clean_environment, run_cli
from tests.conformance import pg
from tests.conformance.test_adopt import Host, etcd, host, servers

__all__ = ["etcd", "host", "servers"]

pytestmark = pytest.mark.skipif(not pg.installations(), reason="no PostgreSQL")


async def test_two_at_once_on_one_host(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of the one that the register names is not written over by the other."""
    keep = getattr(adopt, "_keep")  # noqa: B009

    def after_another(*arguments: Any) -> None:
        done = run_cli("adopt", str(host.file))
        assert done.code == 0, done.message
        keep(*arguments)

    monkeypatch.setattr(adopt, "_keep", after_another)
    done = await host.run("adopt")
    assert done.code == 2 and "run this again" in done.err, done.message
    register, durable = host.register(), Store(host.state_dir).load("a")
    assert register is not None and register.primary == durable.incarnation
    assert durable.register == register


async def test_interrupted_after_the_register_was_written(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The members are introduced all the same: by that the slots of standbys are kept."""
    introduce = getattr(adopt, "_introduce")  # noqa: B009

    async def killed(*_: object) -> None:
        raise SystemExit(9)

    monkeypatch.setattr(adopt, "_introduce", killed)
    assert (await host.run("adopt")).code == 9
    first = host.register()
    assert first is not None and host.value("pgregent/members/a") is None
    monkeypatch.setattr(adopt, "_introduce", introduce)
    done = await host.run("adopt")
    assert done.code == 0 and "a is adopted as the primary" in done.out, done.message
    assert host.value("pgregent/members/a") is not None
    assert host.register() == first == Store(host.state_dir).load("a").register
    done = await host.run("adopt")
    assert done.code == 0 and "nothing to be done" in done.out, done.message


async def test_a_standby_that_was_being_cloned_is_released(host: Host, servers: pg.Servers) -> None:
    """Its agent was stopped before there was a data directory, or after it was set aside."""
    standby = Host(host.etcd, await servers.standby("b", host.server))
    standby.server.stop()
    assert (await host.run("adopt")).code == 0
    assert (await standby.run("adopt")).code == 0
    host.server.stop()
    store = Store(standby.state_dir)
    store.save(replace(store.load("b"), stage=Stage.CLONE))
    there = standby.data_dir.rename(standby.data_dir.with_name("moved"))
    assert (await host.run("release")).code == 0
    done = await standby.run("release")
    assert done.code == 0 and "b is given back" in done.out, done.message
    assert not standby.state_dir.exists()
    there.rename(standby.data_dir)


async def test_a_server_whose_guard_was_killed_is_not_given_back_while_it_runs(
    host: Host, servers: pg.Servers
) -> None:
    standby = Host(host.etcd, await servers.standby("b", host.server))
    assert (await host.run("adopt")).code == 0
    assert (await standby.run("adopt")).code == 0
    host.server.stop()
    assert (await host.run("release")).code == 0
    server = standby.server
    text = f"{render.HEADER}{(server.data_dir / 'postgresql.conf').read_text()}"
    render.write_file(server.data_dir / "postgresql.conf", text, server.owner)
    assert server.process is not None
    remember_pid_file(server.data_dir, standby.state_dir, server.process.pid)
    await standby.refused("release", "PostgreSQL runs there (process")
    server.stop()
    done = await standby.run("release")
    assert done.code == 0, done.message


async def test_patroni_was_started_again_where_the_register_was_lost(host: Host) -> None:
    """The agent does not write its copy again, on a log without what Patroni acknowledged."""
    assert (await host.run("adopt")).code == 0
    host.server.stop()
    host.remove("pgregent/register")
    host.put(sync={"leader": "b"}, history=[[1, 25000000, "no recovery target specified", "", "b"]])
    for command in ("agent", "adopt"):
        done = await host.run(command)
        assert done.code == 2 and "by its keys b was made the primary since" in done.err
    done = await host.run("release")
    assert done.code == 0, done.message
    register = host.register()
    assert register is not None and register.released and not host.state_dir.exists()
    assert json.loads(host.value("sync") or b"") == {"leader": "b"}


def spawn_agent(host: Host) -> subprocess.Popen[bytes]:
    command = [*COMMAND, "agent", str(host.file)]
    return subprocess.Popen(command, env=clean_environment(), stderr=subprocess.DEVNULL)


async def test_an_agent_killed_before_the_release_still_ends_its_server(host: Host) -> None:
    """Its guard keeps PostgreSQL, and `release` asks for the agent to be started for that."""
    assert (await host.run("adopt")).code == 0
    agent = spawn_agent(host)

    async def serves() -> bool:
        assert agent.poll() is None
        return host.value("leader") == b"a"

    await pg.eventually("it serves", serves)
    agent.kill()
    agent.wait()
    register = host.register()
    assert register is not None

    async def forgotten() -> bool:
        return host.value("members/a") is None and host.value("leader") is None

    await pg.eventually("its keys are gone", forgotten, timeout=20.0)
    released = replace(
        register, seq=register.seq + 1, term=0, primary=NOBODY, rules=(), terms=(), released=True
    )
    host.put(pgregent__register=encode(released).decode())
    assert guard_runs(host.state_dir)
    asked = await host.run("release")
    assert asked.code == 2 and "PostgreSQL still runs under its guard" in asked.err, asked.message
    ended = await host.run("agent")
    assert ended.code == 0, ended.message
    assert not guard_runs(host.state_dir) and postmaster_of(host.data_dir) is None
    done = await host.run("release")
    assert done.code == 0 and "a is given back" in done.out, done.message
