"""A primary that takes its office back, as a definition that can be run.

That a cancelled election loses nothing is in election.py. This is about who may cancel: not one
whose server no longer answers, and not one that nobody acknowledges anything to: it would be alive
in its own eyes, and cancel every election against it for ever. So each cancellation uses up one
acknowledged barrier that was asked for after the cancellation before.
"""

from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple


class Mistake(Enum):
    """Each is planted at the line it would be made at; the model must notice."""

    NONE = auto()
    WITHOUT_A_BARRIER = auto()
    BARRIER_IN_HAND_COUNTED = auto()
    ARMED_BY_ITS_OWN_CANCELLATION = auto()
    ROUND_NOT_COMPARED = auto()
    ANSWER_OF_BEFORE_THE_ELECTION = auto()


NONE, WAITS, ACKNOWLEDGED = 0, 1, 2


class State(NamedTuple):
    electing: bool = False
    slot: bool = False  # a cancellation without a reply
    mine: bool = False  # it has begun to take this round back, and may try again
    armed: bool = True
    barriered: bool = True
    barrier: int = NONE
    older: bool = False  # the barrier was asked for before the last cancellation
    streams: bool = True  # some standby acknowledges
    stuck: bool = False  # its server answers nobody any more
    answered: bool = True  # it did since the election was seen
    # What nobody knows: acknowledged since the last cancellation; stuck when this election began.
    proved: bool = True
    hopeless: bool = False
    flaw: str = ""


Step = tuple[str, State]


def broken(s: State) -> str | None:
    return s.flaw or None


class Reclaim:
    """No bounds: there is nothing to count."""

    def __init__(self, mistake: Mistake = Mistake.NONE) -> None:
        self.mistake = mistake
        self.initial = State()

    def actions(self, s: State) -> Iterator[Step]:
        yield from self.others(s)
        yield from self.barriers(s)
        if s.slot:
            yield "the cancellation without a reply lands", self.cancelled(s)
        if s.electing:
            yield from self.reclaims(s)

    def others(self, s: State) -> Iterator[Step]:
        """Elect, at any time and for no reason; seal and come back; a server that gets stuck."""
        again = s._replace(electing=True, slot=False, hopeless=s.stuck, streams=False)
        if self.mistake is not Mistake.ROUND_NOT_COMPARED:
            again = again._replace(mine=False)
        if self.mistake is not Mistake.ANSWER_OF_BEFORE_THE_ELECTION:
            again = again._replace(answered=False)
        yield "an election begins", again
        if not s.electing and not s.streams:
            yield "a standby streams again", s._replace(streams=True)
        if s.streams:
            yield "the standbys are gone", s._replace(streams=False)
        if not s.stuck:
            yield "the server gets stuck", s._replace(stuck=True)

    def barriers(self, s: State) -> Iterator[Step]:
        if not s.electing and s.barriered and s.barrier == NONE:
            yield "the rule changes", s._replace(barriered=False)
        if not s.electing and not s.barriered and s.barrier == NONE:
            yield "commits a barrier", s._replace(barrier=WAITS, older=False)
        if s.barrier == WAITS and s.streams and not s.stuck:
            proved = s.proved or not s.older
            yield "the barrier is acknowledged", s._replace(barrier=ACKNOWLEDGED, proved=proved)
        if s.barrier == ACKNOWLEDGED:
            yield "hears of it", s._replace(barrier=NONE, barriered=True, armed=True)

    def reclaims(self, s: State) -> Iterator[Step]:
        """After a fresh connection; a barrier that is under way is forgotten."""
        if not s.stuck:
            yield "the server answers a fresh connection", s._replace(answered=True)
        if not s.answered or not (s.armed or s.mine):
            return
        armed = self.mistake is Mistake.WITHOUT_A_BARRIER
        s = s._replace(armed=armed, mine=True, barriered=False)
        if self.mistake is not Mistake.BARRIER_IN_HAND_COUNTED:
            s = s._replace(barrier=NONE, older=False)
        yield "cancels the election", self.cancelled(s)
        yield "cancels the election (no reply)", s._replace(slot=True)

    def cancelled(self, s: State) -> State:
        flaw = ""
        if not s.proved:
            flaw = "it took its office back twice, and nothing was acknowledged in between"
        elif s.hopeless:
            flaw = "it took its office back with a server that answers nobody"
        armed = s.armed or self.mistake is Mistake.ARMED_BY_ITS_OWN_CANCELLATION
        return s._replace(
            electing=False, slot=False, flaw=flaw, armed=armed, proved=False,
            older=s.barrier != NONE,
        )  # fmt: skip
