"""`pgregent restart`: PostgreSQL stopped and started again, by its agent."""

import random
from collections.abc import Mapping
from typing import Any

import click

from pgregent.cli.member_action import chosen_members, follow, own_why
from pgregent.cli.roles import role_option
from pgregent.cli.target import Target, ask_or_fail, target_options
from pgregent.config.types import duration, version_number
from pgregent.core.errors import Refused, Unavailable

_TIMEOUT = "300"


@click.command("restart")
@target_options
@click.argument("names", nargs=-1, metavar="[CLUSTER] [MEMBER]...")
@role_option("Only members with this role.", default="any")
@click.option("--any", "one", is_flag=True, help="Only one of them, whichever.")
@click.option("--pending", is_flag=True, help="Only where parameters wait for a restart.")
@click.option("--pg-version", metavar="15.4", help="Only where PostgreSQL is older than this.")
@click.option("--scheduled", metavar="now", help="Only `now`: others are not supported yet.")
@click.option("--timeout", default=_TIMEOUT, help=f"Seconds to wait for each [{_TIMEOUT}].")
@click.option("--force", is_flag=True, help="Do not ask.")
def command(
    target: Target,
    names: tuple[str, ...],
    *,
    role: str,
    one: bool,
    pending: bool,
    pg_version: str | None,
    scheduled: str | None,
    timeout: str,
    force: bool,
) -> None:
    """Restart PostgreSQL on all members or on each MEMBER, the standbys first, one by one.

    The primary stays primary: it makes a checkpoint first, new connections are held by the entry
    point, its sessions end. If it is not back after about 5 s, a standby may succeed it.

    Exit code 1 when one has failed; those after it are not restarted.
    """
    if scheduled not in (None, "now"):
        raise Refused(f"--scheduled {scheduled}: scheduling is not supported yet; expected now")
    limit = _seconds(timeout)
    below = None if pg_version is None else _version(pg_version)
    statuses = ask_or_fail(target)
    members = chosen_members(target, statuses, names, role)
    told = {name: statuses.by_node.get(name) for name in members}
    members = [n for n in members if _needs_it(told[n], pending, below)]
    if one:
        members = random.sample(members, min(1, len(members)))
    if not members:
        click.echo("There is none to restart")
        return
    members.sort(key=lambda name: name == statuses.primary)
    if not force and not click.confirm(f"{target.scope}: restart {', '.join(members)}?"):
        raise SystemExit(1)
    for name in members:
        _restart(target, name, told[name], limit)


def _seconds(timeout: str) -> float:
    try:
        return duration(timeout)
    except ValueError as error:
        raise Refused(f"--timeout {timeout}: expected {error}") from None


def _version(text: str) -> int:
    try:
        return version_number(text)
    except ValueError as error:
        raise Refused(f"--pg-version {text}: expected {error}") from None


def _needs_it(status: Mapping[str, Any] | None, pending: bool, below: int | None) -> bool:
    """What its agent does not tell is not so."""
    told = status or {}
    version = told.get("server_version")
    is_older = below is None or (version is not None and version < below)
    return is_older and (bool(told.get("pending_restart")) or not pending)


def _restart(target: Target, name: str, before: Mapping[str, Any] | None, limit: float) -> None:
    from pgregent.api.signed import RESTART
    from pgregent.cli.operate import ask_agent

    if before is None:
        raise Unavailable(f"agent {name}", "it does not answer")
    ask_agent(target, name, RESTART, {"started_at": before["started_at"]})
    old = before["processes"]["postmaster"]
    click.echo(f"{name}: requested")

    def is_over(status: Mapping[str, Any]) -> bool:
        if status["restarting"]:
            return False
        # An agent that was started anew meanwhile has forgotten what it was asked for.
        if status["processes"]["postmaster"] in (None, old):
            raise Unavailable(f"member {name}", f"it was not restarted: {own_why(status)}")
        return status["state"] == "running" and (status["primary"] != name or status["serving"])

    seconds = follow(target, name, is_over, limit)
    click.echo(f"{name}: restarted after {seconds:.1f} s")
