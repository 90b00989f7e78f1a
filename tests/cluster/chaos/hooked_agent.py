"""The real agent, which kills itself once at a named point, and whose wall clock may be wrong.

$CHAOS_DIR/point names the point: "before WHAT" an effect, or "after WHAT" its answer; the first
agent that gets there takes the file and dies of SIGKILL. $CHAOS_DIR/clock-$CHAOS_NODE holds the
seconds that this node's wall clock is wrong by.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pgregent.agent.loop import Agent
from pgregent.core import effects
from pgregent.core.events import CasAnswer, Done, Event
from pgregent.core.types import Register

WRITES = ("electing", "appoint", "append", "drop")
OTHERS = ("seal", "vote", "promote", "barrier", "apply")
POINTS = tuple(f"{when} {what}" for what in (*WRITES, *OTHERS) for when in ("before", "after"))
_EFFECTS: dict[type[Any], str] = {
    effects.Seal: "seal",
    effects.Promote: "promote",
    effects.Barrier: "barrier",
    effects.ApplyRule: "apply",
}
_folder = Path(os.environ.get("CHAOS_DIR", "/nonexistent"))
_node = os.environ.get("CHAOS_NODE", "")


def kind_of_write(before: Register | None, after: Register) -> str:
    """Return what a write of the register does; "" for anything that has no name here."""
    if before is None or after.term != before.term:
        return "appoint"
    if after.electing != before.electing:
        return "electing" if after.electing else "back"
    if len(after.rules) != len(before.rules):
        return "append" if len(after.rules) > len(before.rules) else "drop"
    return ""


def reach(point: str) -> None:
    """Die here if it is the point, and nobody has died at it yet."""
    file = _folder / "point"
    try:
        if file.read_text() != point:
            return
        file.rename(_folder / f"point-of-{_node}")
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def watch_effects() -> None:
    """Let every agent of this process pass the points."""
    perform: Callable[..., Any] = getattr(Agent, "_perform")  # noqa: B009
    post = Agent.post
    written: dict[int, str] = {}
    voted: set[int] = set()
    told: set[int] = set()

    async def hooked_perform(self: Agent, effect: effects.Effect) -> None:
        what = _EFFECTS.get(type(effect), "")
        match effect:
            case effects.WriteRegister(_, register):
                what = written[register.seq] = kind_of_write(self.state.register, register)
            case effects.Publish(record):
                if record.vote is not None and record.vote.round not in voted:
                    what = "vote"
            case _:
                pass
        reach(f"before {what}")
        await perform(self, effect)
        if isinstance(effect, effects.Publish) and effect.record.vote is not None:
            voted.add(effect.record.vote.round)

    def hooked_post(self: Agent, event: Event) -> None:
        if voted - told:
            # By the next event it is on its way.
            told.update(voted)
            reach("after vote")
        if isinstance(event, CasAnswer):
            reach(f"after {written.get(event.effect.register.seq, '')}")
        elif isinstance(event, Done):
            reach(f"after {_EFFECTS.get(type(event.effect), '')}")
        post(self, event)

    setattr(Agent, "_perform", hooked_perform)  # noqa: B010
    Agent.post = hooked_post


def shift_clock() -> None:
    """Take the wall clock's error from the file, whatever it is at the moment."""
    right = time.time
    file = _folder / f"clock-{_node}"

    def wrong() -> float:
        with suppress(OSError, ValueError):
            return right() + float(file.read_text())
        return right()

    time.time = wrong


def main() -> None:
    watch_effects()
    shift_clock()
    from pgregent.cli.main import main as pgregent

    sys.argv[0] = "pgregent"
    pgregent()


if __name__ == "__main__":
    main()
