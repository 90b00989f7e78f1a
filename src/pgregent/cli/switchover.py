"""`pgregent switchover`: another primary, planned."""

import time
from typing import Any

import click

from pgregent.cli.target import Target, ask, ask_or_fail, find_target, target_options
from pgregent.core.errors import Refused, Unavailable

_TIMEOUT_S = 60.0
_POLL_S = 0.05


@click.command("switchover")
@target_options
@click.option("--candidate", metavar="NAME", default="", help="Who takes over [default: furthest].")
@click.option("--leader", "--primary", metavar="NAME", help="Refuse unless this is the primary.")
@click.option("--force", is_flag=True, help="Do not ask.")
def command(
    directory: str | None,
    config_file: str | None,
    *,
    candidate: str,
    leader: str | None,
    force: bool,
) -> None:
    """Hand the primary's office over: checkpoint, fast shutdown, and the candidate, which then has
    everything, is promoted. New connections are held meanwhile, and nobody has to be rewound.
    """
    target = find_target(directory, config_file)
    status = ask_or_fail(target).best or {}
    primary, term = status.get("primary"), status.get("term")
    if primary is None:
        raise Unavailable("primary", f"there is none now: {status.get('why')}")
    if leader not in (None, primary):
        raise Refused(f"--leader {leader}: the primary is {primary}")
    if candidate and candidate == primary:
        raise Refused(f"--candidate {candidate}: it is the primary already")
    to = candidate or "the standby that is furthest"
    if not force and not click.confirm(f"{target.scope}: switch over from {primary} to {to}?"):
        raise SystemExit(1)
    _switch(target, str(primary), int(term or 0), candidate)


def _switch(target: Target, primary: str, term: int, candidate: str) -> None:
    from pgregent.api.operate import SWITCHOVER
    from pgregent.cli.operate import ask_agent

    began = time.monotonic()
    ask_agent(target, primary, SWITCHOVER, {"term": term, "candidate": candidate})
    said = ""
    while time.monotonic() - began < _TIMEOUT_S:
        status: Any = ask(target).best or {}
        if status.get("serving"):
            after = f"after {time.monotonic() - began:.1f} s"
            if status["term"] > term:
                click.echo(f"Successfully switched over to {status['primary']!r} {after}")
                return
            if said:
                raise Unavailable("switchover", f"{primary} is still the primary {after}: {said}")
        elif (why := str(status.get("why") or "no agent answers")) != said:
            click.echo(f"{time.monotonic() - began:5.1f} s  {why}")
            said = why
        time.sleep(_POLL_S)
    raise Unavailable("switchover", f"not over after {_TIMEOUT_S:.0f} s: {said or 'unknown'}")
