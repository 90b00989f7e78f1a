"""`pgregent dcs`: the store that agents agree through."""

from typing import TYPE_CHECKING, Any

import click

from pgregent.cli.target import Target, ask_or_fail, target_options
from pgregent.core.errors import Refused

if TYPE_CHECKING:
    from pgregent.cli.statuses import Statuses


@click.group("dcs")
def command() -> None:
    """The store that agents agree through."""


@command.command("restore")
@target_options
@click.option("--member", metavar="NAME", help="Whose copy [default: the newest that answers].")
@click.option("--accept-loss", is_flag=True, help="Do it.")
def restore(target: Target, member: str | None, accept_loss: bool) -> None:
    """Write the register of a DCS that was emptied again, from a member's copy.

    Agents do this by themselves where it is certain that nothing is lost by it. Where it is not,
    they say what they wait for; without --accept-loss this command only shows what could be lost.
    """
    statuses = ask_or_fail(target)
    chosen = member or statuses.best_name or ""
    if chosen not in statuses.by_node:
        raise Refused(f"--member {chosen}: expected one of {', '.join(statuses.by_node)}")
    status = statuses.by_node[chosen]
    register: dict[str, Any] | None = status.get("register") if status else None
    if status is None or register is None:
        raise Refused(f"{chosen} has no copy of the register: name another with --member")
    if not status["dcs"].get("lost"):
        raise Refused(f"{chosen}: its DCS does not show less than it has seen: nothing to restore")
    _explain(chosen, status, _silent(register, statuses))
    if not accept_loss:
        raise Refused("nothing was changed; with --accept-loss this copy is written again")
    _restore(target, chosen, register["seq"])


def _silent(register: Any, statuses: "Statuses") -> list[str]:
    """Who does not answer of those who are known, and of those whom this copy names: the address
    of a member may have been in the DCS only."""
    named = {register["primary"]["name"]}
    for rule in register["rules"]:
        named |= {m["name"] for m in (rule["writer"], *rule["members"])}
    answering = {name for name, status in statuses.by_node.items() if status is not None}
    return sorted((named | statuses.by_node.keys()) - answering)


def _explain(chosen: str, status: Any, silent: list[str]) -> None:
    register = status["register"]
    primary = register["primary"]["name"]
    click.echo(f"the copy of {chosen}: term {register['term']}, primary {primary}")
    click.echo(f"it is not written again by itself: {status['dcs']['lost']}")
    if silent:
        names = " or ".join(silent)
        click.echo(
            f"what can be lost: commits that only {names} has, if it was made primary later than "
            f"this copy knows, or acknowledged alone; make sure first that {names} is stopped"
        )
    else:
        click.echo("all members that are known answer: nothing that they acknowledged can be lost")


def _restore(target: Target, chosen: str, seq: int) -> None:
    from pgregent.api.signed import RESTORE_DCS
    from pgregent.cli.operate import ask_agent

    ask_agent(target, chosen, RESTORE_DCS, {"seq": seq})
    click.echo(f"{chosen} writes its copy again; see `pgregent list`")
