"""Another primary: asked for, and followed step by step until it serves."""

import time
from dataclasses import dataclass, field
from typing import Any

import click

from pgregent.cli.target import Target, ask
from pgregent.core.errors import Unavailable

_TIMEOUT_S = 60.0
_POLL_S = 0.05
_BEGIN_S = 2.0
"""Seconds after which the primary has surely begun."""


@dataclass
class _Steps:
    """What was said, each with the seconds since it was asked for."""

    began: float = field(default_factory=time.monotonic)
    last: str = ""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def say(self, text: str) -> None:
        if text != self.last:
            click.echo(f"{self.seconds:5.1f} s  {text}")
            self.last = text


def hand_over(target: Target, status: Any, candidate: str, done: str) -> None:
    """Have the primary of `status` hand over to `candidate` ("": the furthest standby), and wait;
    `done` is as in "switched over". Raises Refused and Unavailable with the reason."""
    from pgregent.api.signed import SWITCHOVER
    from pgregent.cli.operate import ask_agent

    primary, term = str(status["primary"]), int(status["term"])
    steps = _Steps()
    ask_agent(target, primary, SWITCHOVER, {"term": term, "candidate": candidate})
    steps.say(f"requested of {primary}")
    new = _wait(target, primary, term, steps)
    if candidate not in ("", new):
        raise Unavailable("candidate", f"{new} took over, instead of {candidate}")
    click.echo(f"Successfully {done} to {new!r} after {steps.seconds:.1f} s")


def _wait(target: Target, primary: str, term: int, steps: _Steps) -> str:
    """Who serves at last."""
    begun = closed = False
    while steps.seconds < _TIMEOUT_S:
        statuses = ask(target)
        status: Any = statuses.best or {}
        now, serving = status.get("term", term), status.get("serving")
        why = _why(status, primary)
        # Only the primary itself knows whether it is still about it.
        about_it = (statuses.by_node.get(primary) or {}).get("switchover")
        begun = begun or bool(about_it)
        if now > term:
            new = str(status["primary"])
            steps.say(f"appointed: {new} for term {now}")
            if serving:
                steps.say(f"serves: {new}")
                return new
        elif not serving:
            closed = True
            steps.say(f"closed: {why}")
        elif about_it:
            steps.say(f"begun: {why}")
        elif closed or (about_it is False and (begun or steps.seconds > _BEGIN_S)):
            after = f"after {steps.seconds:.1f} s"
            raise Unavailable("switchover", f"{primary} is still the primary {after}: {why}")
        time.sleep(_POLL_S)
    raise Unavailable("switchover", f"not over after {_TIMEOUT_S:.0f} s: {steps.last}")


def _why(status: Any, primary: str) -> str:
    of_primary = (m["why"] for m in status.get("members") or () if m["name"] == primary)
    return next(of_primary, "") or status.get("why") or "no agent answers"
