"""From a tape that shows something to a short one that shows it still."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from tests.sim.schedule import replay
from tests.sim.tape import Tape

NOISES = 4
"""With how many other delays a shorter tape is tried: what it shows may have moved a little."""

Item = TypeVar("Item")
Shows = Callable[[Tape], str]
"""Plays a tape; the problem, or empty."""


def kind_of(problem: str) -> str:
    """Which invariant was broken; "L1" for a cluster that did not get well."""
    found = re.match(r"[SL]\d", problem)
    return found[0] if found else "L1" if problem else ""


def _play(tape: Tape) -> str:
    return replay(tape).problem


def shrink(tape: Tape, seconds: float, shows: Shows = _play) -> tuple[Tape, str]:
    """A shorter tape that breaks the same invariant, and how; it takes so long at most. The same
    tape if it breaks none."""
    search = _Search(tape, shows(tape), shows, time.monotonic() + seconds)
    if search.kind:
        for noises in (1, NOISES):
            search.noises = noises
            before = None
            while before is not search.best and not search.is_late:
                before = search.best
                search.fewer_strikes()
                search.fewer_choices()
        search.rounder_times()
    return search.best, search.problem


class _Search:
    """The shortest tape so far."""

    def __init__(self, tape: Tape, problem: str, shows: Shows, until: float) -> None:
        self.best, self.problem = tape, problem
        self.kind = kind_of(problem)
        self.noises = 1
        self.shows, self.until = shows, until

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self.until

    def _try(self, tape: Tape) -> bool:
        """Whether this shows it too; then it is the best."""
        others = [n for n in range(self.noises) if n != tape.noise]
        for noise in (tape.noise, *others):
            if self.is_late:
                return False
            candidate = Tape(tape.seed, tape.choices, tape.strikes, noise)
            problem = self.shows(candidate)
            if kind_of(problem) == self.kind:
                self.best, self.problem = candidate, problem
                return True
        return False

    def _fewer(self, items: list[Item], made: Callable[[list[Item]], Tape]) -> None:
        """Leave out half of them, then quarters, … then each."""
        size = len(items)
        while size:
            at = 0
            while at < len(items):
                kept = items[:at] + items[at + size :]
                if self._try(made(kept)):
                    items = kept
                else:
                    at += size
            size //= 2

    def fewer_strikes(self) -> None:
        self._fewer(
            [*(self.best.strikes or ())],
            lambda kept: Tape(self.best.seed, self.best.choices, tuple(kept), self.best.noise),
        )

    def fewer_choices(self) -> None:
        """What is left out is at its calmest."""
        self._fewer(
            [*self.best.choices.items()],
            lambda kept: Tape(self.best.seed, dict(kept), self.best.strikes, self.best.noise),
        )

    def rounder_times(self) -> None:
        strikes = self.best.strikes or ()
        for digits in (1, 2, 3):
            rounded = tuple(replace(s, at=round(s.at, digits)) for s in strikes)
            if self._try(Tape(self.best.seed, self.best.choices, rounded, self.best.noise)):
                return
