"""`pgregent release`: a cluster goes back to Patroni, with its data."""

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgregent.core.errors import Refused

if TYPE_CHECKING:
    from pgregent.adapters.postgres.layout import ServerConfig
    from pgregent.adapters.postgres.wal import ControlData
    from pgregent.cli.patroni_scope import Scope
    from pgregent.config.schema import AgentConfig
    from pgregent.core.release import GiveBack, Stopped


@click.command("release")
@click.argument("file", metavar="FILE")
def command(file: str) -> None:
    """Give this host's PostgreSQL back to Patroni. FILE is the agent's, and Patroni's, own.

    Stop all agents (SIGTERM), the standbys' first; run this on the primary's host, then on each
    standby's; then start Patroni, on the primary's host first. Data, roles and the dynamic
    configuration stay. The state directory is set aside, and the cluster's register says from then
    on that nobody is in office: an agent that is started by mistake ends with exit code 2. Where it
    was interrupted, run it again. `pgregent adopt` is the way back.
    """
    from pgregent.cli.patroni_scope import member_config

    asyncio.run(_release(member_config(file)))


async def _release(config: "AgentConfig") -> None:
    from pgregent.adapters.postgres import patroni_files
    from pgregent.adapters.postgres.guard_client import guard_runs, postmaster_of
    from pgregent.agent.patroni_word import agents, word
    from pgregent.cli.patroni_scope import named, open_scope
    from pgregent.core.release import release

    async with open_scope(config) as scope:
        with named(scope):
            if scope.register is not None and scope.register.released and not scope.locked:
                click.echo("nothing to be done: this host was given back to Patroni already")
                return
            if guard_runs(scope.state_dir):
                raise Refused(
                    "PostgreSQL still runs under its guard: its agent was killed, or ended by "
                    "SIGUSR1; start it again, and stop it by SIGTERM"
                )
            postmaster = postmaster_of(scope.data_dir)
            own_files = scope.server(config.bootstrap.dcs)
            if postmaster is not None and patroni_files.in_force(own_files):
                raise Refused(f"PostgreSQL runs there (process {postmaster}): stop it first")
            control = _control(scope)
            plan = release(
                scope.store.load(config.name),
                _stopped(scope, control),
                scope.register,
                live=agents(scope.entries, scope.base),
                word=word(scope.entries, scope.base),
            )
            dynamic = await scope.dynamic.load(click.echo)
            server = scope.server(dynamic)
            if plan is not None:
                await _give_back(scope, plan, control)
            _clear(scope, server)
            if dynamic.pause:
                click.echo(
                    "the cluster is paused: Patroni starts nothing before `patronictl resume`"
                )


def _stopped(scope: "Scope", control: "ControlData | None") -> "Stopped":
    from pgregent.core.release import Stopped

    if control is None:
        return Stopped(0, clean=False, was_primary=False)
    primary = control.state == "shut down" and not (scope.data_dir / "standby.signal").exists()
    return Stopped(control.timeline, control.shut_down, primary)


def _control(scope: "Scope") -> "ControlData | None":
    from pgregent.adapters.postgres import wal

    if not (scope.data_dir / "PG_VERSION").exists():
        return None
    return wal.controldata(scope.bin_dir, scope.data_dir)


async def _give_back(scope: "Scope", plan: "GiveBack", control: "ControlData | None") -> None:
    """Patroni's keys first, since Patroni may be started as soon as the register is released. By
    them nobody but this host takes over at first: under our rule, not every standby that the key
    `sync` named has every commit, and Patroni would take it so. Where no agent was in office, they
    are Patroni's own still."""
    sync = {"leader": scope.config.name, "sync_standby": None, "quorum": 0}
    status = {"optime": control.checkpoint_lsn if control is not None else 0}
    told = {"sync": sync, "status": status}
    for key, value in told.items() if plan.in_office else ():
        await scope.dcs.put(f"{scope.base}/{key}", json.dumps(value).encode())
    await scope.exchange(plan.expected, plan.register)


def _clear(scope: "Scope", server: "ServerConfig") -> None:
    """The files, and last the state directory: until it is away this can be run again."""
    from pgregent.adapters.postgres import patroni_files
    from pgregent.core.types import Stage

    name, stage = scope.config.name, scope.store.load(scope.config.name).stage
    there = (scope.data_dir / "PG_VERSION").exists()
    if there and stage is not Stage.NONE:
        aside = _set_aside(scope.data_dir, "aside")
        click.echo(f"{name} was being made anew ({stage.value}): what there is, is in {aside}")
    elif there:
        patroni_files.give_back(server, scope.config.postgresql.custom_conf)
    if scope.locked:
        aside = _set_aside(scope.state_dir, "released")
        click.echo(f"pgregent's state directory is set aside: {aside}")
    click.echo(f"{name} is given back; release the other hosts, and start Patroni")


def _set_aside(path: Path, word: str) -> Path:
    from pgregent.adapters.postgres.render import fsync_dir

    aside = path.with_name(f"{path.name}.{word}-{time.strftime('%Y%m%dT%H%M%S')}")
    path.rename(aside)
    fsync_dir(path.parent)
    return aside
