"""Who may be routed to a primary that started again, as a definition that can be run.

A crash restart, or a promotion, makes visible what was never acknowledged. Whoever reads it at the
entry point must never see it lost (S3): so nobody is routed before a barrier that was committed
after the end of recovery is acknowledged.

The election is not played here: whatever set of standbys satisfies the rule may win at any moment,
so the furthest of each such set must hold all that was read. A node that is promoted is like one
that starts again with what it has on disk: `term` only tells its servers apart.
"""

from collections.abc import Iterator
from enum import Enum, auto
from itertools import combinations
from typing import Any, NamedTuple


class Mistake(Enum):
    """Each is planted at the line it would be made at; the model must notice."""

    NONE = auto()
    OPENED_AT_START = auto()
    ANSWER_OF_AN_OLDER_SERVER = auto()
    STANDBY_CONNECTED_IS_ENOUGH = auto()
    CUT_SHORT_TAKEN_AS_DONE = auto()
    RESTARTED_BY_THE_POSTMASTER = auto()
    ROUTED_BY_AN_OLDER_WORD = auto()
    WAITERS_CANCELLED = auto()


class State(NamedTuple):
    up: bool
    lsn: int  # where the primary's log ends, on disk
    acked: int
    visible: int  # what a session sees: acknowledged, or replayed by recovery
    standbys: tuple[int, ...]
    barrier: int  # the LSN of one that waits; 0: none
    answer: int  # of a barrier whose acknowledgement is not handled yet: its server's life; 0: none
    life: int  # this server's: 1 and 2 in turn
    opened: bool
    routed: bool  # the entry point's word for it; that it expires is that it hears of it
    read: int  # the furthest that a client saw at the entry point
    writes: int


Step = tuple[str, State]


class RestartGate:
    """The protocol within bounds: `ANY k` of `n`, `writes` commits; the log ends at `lsns`."""

    def __init__(
        self, mistake: Mistake = Mistake.NONE, *, n: int, k: int, writes: int = 2, lsns: int = 5
    ) -> None:
        self.mistake = mistake
        self.k = k
        self.lsns = lsns
        self.initial = State(True, 1, 1, 1, (1,) * n, 0, 0, 1, True, True, 1, writes)

    def broken(self, s: State) -> str | None:
        needed = len(s.standbys) - self.k + 1
        for voters in combinations(s.standbys, needed):
            if max(voters) < s.read:
                return f"S3: LSN {s.read} was read, and standbys at {voters} may elect one of them"
        return None

    def actions(self, s: State) -> Iterator[Step]:
        if s.up:
            yield from self.server(s)
            yield from self.agent(s)
            yield from self.fails(s)
        else:
            yield from self.starts(s)
        yield from self.entry(s)

    # -- PostgreSQL --------------------------------------------------------------------------

    def starts(self, s: State) -> Iterator[Step]:
        """Only once every word about the server before has expired: clients reach this one at the
        same address, and the entry point may not have heard."""
        if not s.routed or self.mistake is Mistake.ROUTED_BY_AN_OLDER_WORD:
            opened = self.mistake is Mistake.OPENED_AT_START
            after = s._replace(up=True, visible=s.lsn, life=3 - s.life, opened=opened)
            yield "recovery ends", after

    def server(self, s: State) -> Iterator[Step]:
        if s.writes and s.lsn < self.lsns:
            yield f"writes {s.lsn + 1}", s._replace(lsn=s.lsn + 1, writes=s.writes - 1)
        for m, lsn in enumerate(s.standbys):
            if lsn < s.lsn:
                flushed = (*s.standbys[:m], lsn + 1, *s.standbys[m + 1 :])
                yield (
                    f"{'bcd'[m]} flushes {lsn + 1}",
                    self.acknowledged(s._replace(standbys=flushed)),
                )

    def acknowledged(self, s: State) -> State:
        upto = sorted(s.standbys, reverse=True)[self.k - 1]
        if s.barrier and upto >= s.barrier:
            s = s._replace(barrier=0, answer=s.life)
        return s._replace(acked=max(s.acked, upto), visible=max(s.visible, upto))

    # -- its agent ---------------------------------------------------------------------------

    def agent(self, s: State) -> Iterator[Step]:
        """A barrier after every start; open once it is acknowledged. All before recovery's end
        lies before the barrier."""
        if not s.opened and not s.barrier and not s.answer and s.lsn < self.lsns:
            yield "commits the barrier", s._replace(lsn=s.lsn + 1, barrier=s.lsn + 1)
        if s.answer:
            mine = s.answer == s.life or self.mistake is Mistake.ANSWER_OF_AN_OLDER_SERVER
            after = s._replace(answer=0, opened=s.opened or mine)
            yield "hears that the barrier is acknowledged", after
        if s.barrier and self.mistake is Mistake.CUT_SHORT_TAKEN_AS_DONE:
            yield "the barrier's wait is cut short", s._replace(barrier=0, answer=s.life)
        if not s.opened and self.mistake is Mistake.STANDBY_CONNECTED_IS_ENOUGH:
            yield "opens, since a standby streams", s._replace(opened=True)
        if self.mistake is Mistake.WAITERS_CANCELLED and s.visible < s.lsn:
            yield "ends sessions that wait", s._replace(visible=s.lsn)

    # -- the entry point ---------------------------------------------------------------------

    def entry(self, s: State) -> Iterator[Step]:
        """It hears of the primary late; its connections end with the server that they lead to."""
        word = s.up and s.opened
        if s.routed != word:
            yield "the entry point hears of it", s._replace(routed=word)
        if s.up and s.routed and s.read < s.visible:
            yield f"a client reads {s.visible}", s._replace(read=s.visible)

    # -- faults ------------------------------------------------------------------------------

    def fails(self, s: State) -> Iterator[Step]:
        gone: dict[str, Any] = {"up": False, "opened": False, "barrier": 0}
        if s.answer in (0, s.life):
            yield "the server crashes", s._replace(**gone)
        else:
            # Of the one before the last nothing is under way any more.
            yield "the server crashes", s._replace(**gone, answer=0)
        if self.mistake is Mistake.RESTARTED_BY_THE_POSTMASTER:
            yield "a backend dies, the postmaster restarts it all", s._replace(visible=s.lsn)
