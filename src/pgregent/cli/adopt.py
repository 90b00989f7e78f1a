"""`pgregent adopt`: a cluster comes over from Patroni, with its data."""

import asyncio
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from pgregent.core.errors import Refused, Unavailable

if TYPE_CHECKING:
    from pgregent.adapters.postgres.layout import ServerConfig
    from pgregent.cli.patroni_scope import Scope
    from pgregent.config.dynamic import Dcs as Dynamic
    from pgregent.config.schema import AgentConfig
    from pgregent.core.adoption import TakeOver
    from pgregent.core.types import Incarnation

CAS_ATTEMPTS = 3
"""Of the dynamic configuration: a key that Patroni made is marked by the first one only."""
WITHOUT_PAUSE = {"pause": None}


@click.command("adopt")
@click.argument("file", metavar="FILE")
def command(file: str) -> None:
    """Take this host's PostgreSQL over from Patroni. FILE is Patroni's own configuration.

    Pause Patroni (`patronictl pause`), stop it on all hosts, run this on the primary's host, then
    on each standby's, then start the agents (`pgregent agent FILE`), the primary's first. Data,
    roles and slots stay; each agent restarts its PostgreSQL once. What could lose commits is
    refused, and nothing is touched then. Where it was interrupted, run it again. The way back is
    `pgregent release`.
    """
    from pgregent.cli.patroni_scope import member_config

    asyncio.run(_adopt(member_config(file)))


async def _adopt(config: "AgentConfig") -> None:
    from pgregent.adapters.postgres import foreign
    from pgregent.agent.patroni_word import word
    from pgregent.cli.patroni_scope import named, open_scope
    from pgregent.core.adoption import Nothing, TakeOver, adopt

    async with open_scope(config) as scope:
        with named(scope):
            in_force = scope.register is not None and not scope.register.released
            told = word(scope.entries, scope.base, leader_counts=not in_force)
            dynamic = (await scope.dynamic.with_changes(WITHOUT_PAUSE)).dcs
            server = await _server(scope, dynamic)
            seen = await foreign.look(server)
            own = scope.store.load(config.name)
            strict = dynamic.synchronous_mode_strict
            plan = adopt(own, seen.data, told, scope.register, now=time.time(), strict=strict)
            if isinstance(plan, Nothing):
                click.echo(f"nothing to be done: {plan.why}")
                return
            _keep(scope, server)
            scope.store.save(plan.durable)
            if isinstance(plan, TakeOver):
                await _take_register(scope, plan)
            await _introduce(scope, own.incarnation, seen.standbys)
            if isinstance(plan, TakeOver):
                # The last: with it, there is nothing left to be done again.
                scope.store.save(replace(plan.durable, register=plan.register))
        _tell(scope, primary=isinstance(plan, TakeOver))


async def _server(scope: "Scope", dynamic: "Dynamic") -> "ServerConfig":
    """This member's server, looked at as its agent would before it starts. Raises Refused."""
    from pgregent.adapters.postgres.check import check_data_dir, check_files, check_parameters

    data_dir = scope.data_dir
    check_data_dir(data_dir, scope.bin_dir, "")
    if not (data_dir / "PG_VERSION").exists():
        raise Refused("no data directory there: an agent that is started without one clones it")
    server = scope.server(dynamic)
    check_parameters(server.parameters)
    await check_files(server)
    runs_as = server.owner.uid if server.owner is not None else os.geteuid()
    if (owner := data_dir.stat().st_uid) != runs_as:
        raise Refused(
            f"the data directory belongs to user {owner}, and an agent started by this user would "
            f"run PostgreSQL as {runs_as}: run both as user {owner}"
        )
    return server


def _keep(scope: "Scope", server: "ServerConfig") -> None:
    from pgregent.adapters.postgres import patroni_files

    if not scope.locked:
        scope.lock()
        if scope.store.is_there():
            raise Refused("another `adopt`, or an agent, was here meanwhile: run this again")
    kept = patroni_files.keep(server)
    click.echo(f"Patroni's configuration files of PostgreSQL: copies are in {kept}")


async def _take_register(scope: "Scope", plan: "TakeOver") -> None:
    await _end_pause(scope)
    if scope.register != plan.register:
        await scope.exchange(plan.expected, plan.register)


async def _end_pause(scope: "Scope") -> None:
    from pgregent.ports.dcs import CasDone

    for _ in range(CAS_ATTEMPTS):
        if isinstance(await scope.dynamic.patch(WITHOUT_PAUSE), CasDone):
            return
    raise Unavailable("dcs", f"{scope.base}/config changes all the time: run this again")


async def _introduce(scope: "Scope", me: "Incarnation", standbys: tuple[str, ...]) -> None:
    """Have the primary's agent know the members before their agents run: it keeps the slots of
    those."""
    from pgregent.agent.codec import encode
    from pgregent.core.types import Incarnation, PgState, Record

    for name in standbys:
        unknown = Record(Incarnation(name, ""), 0, PgState.UNKNOWN)
        await scope.dcs.cas(scope.keys.member(name), 0, encode(unknown))
    address, api = scope.config.postgresql.address, scope.config.restapi
    record = Record(
        me,
        1,
        PgState.UNKNOWN,
        host=address.host,
        port=address.port,
        api_url=f"{api.scheme}://{api.address}/patroni",
    )
    await scope.dcs.put(scope.keys.member(me.name), encode(record))


def _tell(scope: "Scope", *, primary: bool) -> None:
    name = scope.config.name
    if primary:
        click.echo(f"{name} is adopted as the primary; now run this on the other hosts")
    else:
        click.echo(f"{name} is adopted as a standby")
    click.echo("then start the agents with the same files, the primary's first")
