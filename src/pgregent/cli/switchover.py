"""`pgregent switchover`: another primary, planned."""

import click

from pgregent.cli.handover import hand_over
from pgregent.cli.target import Target, ask_or_fail, cluster_argument, target_options
from pgregent.core.errors import Refused, Unavailable


@click.command("switchover")
@target_options
@cluster_argument
@click.option("--candidate", metavar="NAME", default="", help="Who takes over [default: furthest].")
@click.option("--leader", "--primary", metavar="NAME", help="Refuse unless this is the primary.")
@click.option("--force", is_flag=True, help="Do not ask.")
def command(target: Target, *, candidate: str, leader: str | None, force: bool) -> None:
    """Hand the primary's office over: checkpoint, fast shutdown, and the candidate, which then has
    everything, is promoted. New connections are held meanwhile, and nobody has to be rewound.
    """
    status = ask_or_fail(target).best or {}
    primary = status.get("primary")
    if primary is None:
        raise Unavailable("primary", f"there is none now: {status.get('why')}")
    if leader not in (None, primary):
        raise Refused(f"--leader {leader}: the primary is {primary}")
    if candidate and candidate == primary:
        raise Refused(f"--candidate {candidate}: it is the primary already")
    to = candidate or "the standby that is furthest"
    if not force and not click.confirm(f"{target.scope}: switch over from {primary} to {to}?"):
        raise SystemExit(1)
    hand_over(target, status, candidate, "switched over")
