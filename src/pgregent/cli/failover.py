"""`pgregent failover`: a primary of one's choice."""

from typing import Any

import click

from pgregent.cli.handover import hand_over
from pgregent.cli.target import Target, ask_or_fail, cluster_argument, target_options
from pgregent.core.errors import Refused, Unavailable


@click.command("failover")
@target_options
@cluster_argument
@click.option("--candidate", metavar="NAME", help="Who takes over; it is asked for otherwise.")
@click.option("--force", is_flag=True, help="Do not ask.")
def command(target: Target, candidate: str | None, force: bool) -> None:
    """Make the candidate the primary, as `switchover` does.

    Nobody is appointed who lacks commits. Where the primary is gone there is nothing to do: the
    members elect another by themselves, and if they cannot, this says why.
    """
    status: Any = ask_or_fail(target).best or {}
    primary = status.get("primary")
    register: dict[str, Any] = status.get("register") or {}
    if primary is None or register.get("electing"):
        why = f"{status.get('why')}; {status.get('succession')}"
        raise Unavailable("primary", f"there is none to make way; the members elect one: {why}")
    if candidate is None:
        if force:
            raise Refused("--candidate: missing; `pgregent switchover` takes the furthest standby")
        standbys = sorted({m["name"] for m in status.get("members") or ()} - {primary})
        candidate = str(click.prompt(f"Candidate ({', '.join(standbys)})"))
    if candidate == primary:
        raise Refused(f"--candidate {candidate}: it is the primary already")
    if not force and not click.confirm(f"{target.scope}: fail over from {primary} to {candidate}?"):
        raise SystemExit(1)
    hand_over(target, status, candidate, "failed over")
