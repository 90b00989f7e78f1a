"""`pgregent reinit`: a standby made anew from the primary."""

from collections.abc import Mapping
from typing import Any

import click

from pgregent.cli.member_action import chosen_members, follow, own_why
from pgregent.cli.target import Target, ask_or_fail, target_options
from pgregent.core.errors import Refused, Unavailable

_TIMEOUT_S = 86400.0
"""A copy takes as long as it takes."""


@click.command("reinit")
@target_options
@click.argument("names", nargs=-1, metavar="[CLUSTER] MEMBER...")
@click.option("--from-leader", is_flag=True, help="As it is always done.")
@click.option("--wait", is_flag=True, help="Until the copy is there and the member streams.")
@click.option("--force", is_flag=True, help="Do not ask.")
def command(
    target: Target, names: tuple[str, ...], *, from_leader: bool, wait: bool, force: bool
) -> None:
    """Make each MEMBER, a standby, anew: a copy of the primary in the place of what it has.

    Commits stop waiting for it first, where others can do. What it has goes on being its data until
    the copy is complete, and is set aside then, not deleted.
    """
    statuses = ask_or_fail(target)
    if not names or names == (target.scope,):
        raise Refused("MEMBER: missing; name the standbys to make anew")
    members = chosen_members(target, statuses, names)
    if not force and not click.confirm(f"{target.scope}: make {', '.join(members)} anew?"):
        raise SystemExit(1)
    for name in members:
        _reinitialize(target, name, statuses.by_node.get(name), wait)


def _reinitialize(target: Target, name: str, before: Mapping[str, Any] | None, wait: bool) -> None:
    from pgregent.api.signed import REINITIALIZE
    from pgregent.cli.operate import ask_agent

    if before is None:
        raise Unavailable(f"agent {name}", "it does not answer")
    old = incarnation(before)
    ask_agent(target, name, REINITIALIZE, {"incarnation": old})
    click.echo(f"{name}: requested")

    def is_over(status: Mapping[str, Any]) -> bool:
        if incarnation(status) == old:
            if not status["reinitializing"]:
                raise Unavailable(f"member {name}", f"it was not made anew: {own_why(status)}")
            return False
        return not wait or _own(status)["state"] == "streaming"

    seconds = follow(target, name, is_over, _TIMEOUT_S)
    done = "made anew, and streams," if wait else "being made anew"
    click.echo(f"{name}: {done} after {seconds:.1f} s")


def incarnation(status: Mapping[str, Any]) -> str:
    """Which life of its data the member is in."""
    return str(_own(status)["incarnation"])


def _own(status: Mapping[str, Any]) -> dict[str, Any]:
    return next(m for m in status["members"] if m["name"] == status["name"])
