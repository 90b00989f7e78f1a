"""What an agent does to its own PostgreSQL: asked for, and followed until it is over."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from pgregent.cli.roles import has_role
from pgregent.cli.target import Target, ask
from pgregent.core.errors import Refused, Unavailable

if TYPE_CHECKING:
    from pgregent.cli.statuses import Statuses

POLL_S = 0.1
_LEFT_S = 10.0
"""Seconds that an agent may be silent meanwhile."""


def chosen_members(
    target: Target, statuses: "Statuses", names: Sequence[str], role: str = "any"
) -> list[str]:
    """The members of patronictl's words [CLUSTER] [MEMBER]..., all of them without names, that have
    that role. Raises Refused."""
    known = sorted(target.agents)
    if names[:1] == (target.scope,) and target.scope not in known:
        names = names[1:]
    for name in names:
        if name not in known:
            raise Refused(f"no member {name!r}; {target.scope} has {', '.join(known)}")
    chosen = [n for n in names or known if has_role(n, statuses.primary, role)]
    if not chosen:
        raise Refused(f"--role {role}: none of {', '.join(names or known)}")
    return chosen


def follow(
    target: Target, name: str, is_over: Callable[[Mapping[str, Any]], bool], timeout: float
) -> float:
    """Say what the member says of itself, each with the seconds since now, until `is_over` says so
    of its status; returns those seconds. Raises Unavailable after `timeout` seconds, or when its
    agent is silent."""
    began = heard_at = time.monotonic()
    last = ""
    while (seconds := time.monotonic() - began) < timeout:
        status = ask(target).by_node.get(name)
        if status is not None:
            heard_at = time.monotonic()
            if is_over(status):
                return seconds
            why = str(status["register"] and own_why(status))
            if why != last:
                click.echo(f"{seconds:5.1f} s  {why}")
                last = why
        elif time.monotonic() - heard_at > _LEFT_S:
            raise Unavailable(f"agent {name}", f"it does not answer any more; it said: {last}")
        time.sleep(POLL_S)
    raise Unavailable(f"member {name}", f"not over after {timeout:g} s: {last}")


def own_why(status: Mapping[str, Any]) -> str:
    """What the member says of itself."""
    own = (m["why"] for m in status["members"] if m["name"] == status["name"])
    return str(next(own, ""))
