"""`pgregent config`: what a configuration file says, and what is wrong with it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgregent.core.errors import Refused

if TYPE_CHECKING:
    from pgregent.config.load import Loaded
    from pgregent.config.schema import AgentConfig


@click.group("config")
def command() -> None:
    """Check configuration files."""


@command.command("check")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
def check(files: tuple[str, ...]) -> None:
    """Say all that is wrong with agents' files, or how long writes can be out with them.

    FILE may be a directory of files, as for the agent. Settings from the environment
    (PGREGENT_..., PATRONI_...) count as they do for the agent.
    Exit code 2: a file has mistakes.
    """
    from pgregent.config.load import load

    refusals: list[str] = []
    for file in files:
        try:
            loaded = load(Path(file), os.environ)
            _refuse_unsupported(file, loaded.config)
        except Refused as refused:
            refusals.append(str(refused))
        else:
            _print_summary(file, loaded)
    if refusals:
        raise Refused("\n".join(refusals))


def _refuse_unsupported(file: str, config: "AgentConfig") -> None:
    from pgregent.adapters.postgres.check import check_parameters
    from pgregent.config.dynamic import unsupported

    dcs = config.bootstrap.dcs
    found = [f"{file}: bootstrap.dcs.{key}: {text}" for key, text in unsupported(dcs)]
    try:
        check_parameters(config.server_parameters(dcs))
    except Refused as refused:
        found.append(f"{file}: {refused}")
    if found:
        raise Refused("\n".join(found))


def _print_summary(file: str, loaded: "Loaded") -> None:
    from pgregent.config.outage import SEED_HAPROXY, TAKEOVER, UNUSED, outages

    config = loaded.config
    dcs = config.bootstrap.dcs
    click.echo(f"{file}: member {config.name} of {config.scope}")
    click.echo(f"  DCS         {_dcs(config)}, keys under {config.namespace}/{config.scope}")
    postgresql = config.postgresql
    click.echo(f"  PostgreSQL  {postgresql.address}, data in {postgresql.data_dir}")
    click.echo(f"  agent       {config.restapi.address}")
    click.echo(f"  commits     {_confirmed(config)}")
    if loaded.variables:
        click.echo(f"  environment {', '.join(loaded.variables)}")
    for warning in loaded.warnings:
        click.echo(f"  warning: {warning}")
    click.echo("  worst-case write outage with these settings, one fault at a time:")
    for outage in outages(config.pgregent, dcs):
        click.echo(f"    {outage.bound:>11}  {outage.fault}: {outage.formula}")
    for note in (TAKEOVER, SEED_HAPROXY, UNUSED):
        click.echo(f"    {note}")


def _dcs(config: "AgentConfig") -> str:
    if config.zookeeper is not None:
        return f"ZooKeeper {config.zookeeper.connect_string}"
    if config.etcd3 is not None:
        return f"etcd {config.etcd3.connect_string}"
    return f"the file {config.local.path}" if config.local is not None else ""


def _confirmed(config: "AgentConfig") -> str:
    if config.bootstrap.dcs.synchronous_mode_strict:
        return "wait for a standby, always"
    return "wait for a standby; while there is none, the primary goes on alone"
