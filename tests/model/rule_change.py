"""Changing the durability rule, as a definition that can be run; its state: rule_change_state.py.

Every method yields the steps that can be taken now, or makes the state after one.
"""

from collections.abc import Iterator
from enum import Enum, auto
from typing import Any

from rule_change_state import ANY_1, NEVER, Rule, Rules, State, replaced, show

Step = tuple[str, State]


class Mistake(Enum):
    """Each is planted at the line it would be made at; the model must notice."""

    NONE = auto()
    NAMES_BEFORE_CAS = auto()
    RULES_REPLACED = auto()
    DROP_BEFORE_BARRIER = auto()
    BARRIER_BEFORE_RELOAD = auto()
    NO_CHECKPOINT = auto()
    CHECKPOINT_DUE_FORGOTTEN = auto()
    MIXTURE_NOT_LISTED = auto()
    MIXTURE_OF_THE_LAST_TWO = auto()
    STALE_WALSENDER_LEFT = auto()
    STALE_WALSENDER_OF_A_DROPPED_RULE = auto()
    OLD_NAMES_AT_RESTART = auto()
    LOST_CAS_TAKEN_AS_FAILED = auto()
    UNDONE_BY_DROPPING_THE_NEWER = auto()
    RESTART_WITHOUT_CAS = auto()  # this one and the next lose nothing: the tests say so
    RESTART_FROM_OWN_COPY = auto()


class RuleChange:
    """The protocol within bounds: every way from one of `rules` to another, `changes` times."""

    def __init__(
        self,
        mistake: Mistake = Mistake.NONE,
        *,
        rules: Rules = ANY_1,
        writes: int = 1,
        changes: int = 2,
        barriers: int = 3,
    ) -> None:
        self.mistake = mistake
        self.rules = rules
        self.max_lsn = 1 + writes + barriers
        n = 1 + max(m for r in rules for m in r.members)
        self.initial = [
            State((r,), None, (r,), True, r, r, True, (r,) * n, (NEVER,) * n, r.k > 0, False, 0, 1,
                  (1,) * n, 1, writes, changes)
            for r in rules
        ]  # fmt: skip

    def actions(self, s: State) -> Iterator[Step]:
        if s.slot:
            yield "the CAS without a reply lands", s._replace(register=s.slot, slot=None)
        if s.up:
            yield "crashes", s._replace(up=False)
            for part in (self.agent_decides, self.agent_applies, self.server, self.wrong):
                yield from part(s)
        else:
            yield "starts again", self.restarted(s)

    # -- the primary's agent -----------------------------------------------------------------

    def cas(self, label: str, s: State, new: Rules, **spent: Any) -> Iterator[Step]:
        """Lands at once; or its reply is lost and the agent goes on from what it has seen."""
        if s.seen == s.register:
            s = s._replace(**spent)
            yield label, s._replace(register=new, seen=new, slot=None)
            if not s.slot:
                yield f"{label} (no reply)", s._replace(slot=new)

    def agent_decides(self, s: State) -> Iterator[Step]:
        """Append; and, once a barrier went through under the last rule, drop the older ones."""
        if s.seen != s.register:
            yield "sees the register", s._replace(seen=s.register)
        for rule in self.rules:
            if s.changes and rule != s.seen[-1]:
                new = (*s.seen, *self.mixture(s.seen, rule), rule)
                if self.mistake is Mistake.RULES_REPLACED:
                    new = (rule,)
                yield from self.cas(f"appends {show(rule)}", s, new, changes=s.changes - 1)
        through = 0 < s.barrier <= s.acked or self.mistake is Mistake.DROP_BEFORE_BARRIER
        if len(s.seen) > 1 and s.names == s.seen[-1] and through:
            yield from self.cas("drops the older rules", s, s.seen[-1:])

    def mixture(self, listed: Rules, rule: Rule) -> Rules:
        """What may let commits through while some walsenders have the new names and some not."""
        if self.mistake is Mistake.MIXTURE_OF_THE_LAST_TWO:
            listed = listed[-1:]
        real = [r for r in (*listed, rule) if r.k]
        if max((r.k for r in real), default=0) < 2 or self.mistake is Mistake.MIXTURE_NOT_LISTED:
            return ()
        members = sorted({m for r in real for m in r.members})
        mixed = Rule(min(r.k for r in real), tuple(members))
        return () if mixed in (*listed, rule) else (mixed,)

    def agent_applies(self, s: State) -> Iterator[Step]:
        """Names, reload, a checkpoint if one is due, the barrier on a new connection."""
        if s.names != s.seen[-1]:
            yield f"writes the names {show(s.seen[-1])}", self.named(s, s.seen[-1])
        if s.reloaded and s.checkpoint_due:
            done = s._replace(checkpoint_due=False)
            yield "makes a checkpoint", self.flagged(done)
        needed = len(s.seen) > 1 and s.names == s.seen[-1] and not s.barrier
        if needed and self.is_ready(s) and s.lsn + s.writes < self.max_lsn:
            yield "commits the barrier", self.committed(s)._replace(barrier=s.lsn + 1)

    def is_ready(self, s: State) -> bool:
        """When the barrier may be committed.

        With k > 1 no walsender may have older names, also of a rule that was dropped: they may
        have a smaller k. One that has not reported a flush beyond the reload is terminated.
        """
        if s.checkpoint_due or not (s.reloaded or self.mistake is Mistake.BARRIER_BEFORE_RELOAD):
            return False
        needed = s.names.k > 1 and self.mistake is not Mistake.STALE_WALSENDER_LEFT
        if self.mistake is Mistake.STALE_WALSENDER_OF_A_DROPPED_RULE:
            needed = any(0 < r.k < s.names.k for r in s.seen)
        return not (needed and any(view != s.names for view in s.views))

    def named(self, s: State, rule: Rule) -> State:
        due = s.names.k == 0 or s.checkpoint_due
        if self.mistake is Mistake.CHECKPOINT_DUE_FORGOTTEN:
            due = s.names.k == 0
        if self.mistake is Mistake.NO_CHECKPOINT:
            due = False
        older = s.names if self.mistake is Mistake.OLD_NAMES_AT_RESTART else s.older
        return s._replace(
            names=rule, older=older, reloaded=False, barrier=0, checkpoint_due=due and rule.k > 0
        )

    def restarted(self, s: State) -> State:
        """A CAS of its own first: it settles the lost one. The names are those of what it wrote."""
        seen, slot = s.register, None
        if self.mistake is Mistake.RESTART_WITHOUT_CAS:
            slot = s.slot
        if self.mistake is Mistake.RESTART_FROM_OWN_COPY:
            seen, slot = s.seen, s.slot
        names = s.older if self.mistake is Mistake.OLD_NAMES_AT_RESTART else seen[-1]
        return s._replace(
            up=True, seen=seen, slot=slot, names=names, reloaded=True,
            views=(names,) * len(s.views), due=(NEVER,) * len(s.due), waiting=names.k > 0,
            checkpoint_due=False, barrier=0,
        )  # fmt: skip

    # -- PostgreSQL --------------------------------------------------------------------------

    def server(self, s: State) -> Iterator[Step]:
        if not s.reloaded:
            due = tuple(min(lsn, s.lsn) for lsn in s.due)
            yield "passes the reload on", s._replace(reloaded=True, due=due)
        if s.waiting != (s.names.k > 0):
            yield "the checkpointer reads the names", self.flagged(s)
        if s.writes:
            yield "commits", self.committed(s)._replace(writes=s.writes - 1)
        for m in range(len(s.standbys)):
            if s.views[m] != s.names:
                yield f"walsender {'bcd'[m]} reads the names", self.replied(self.adopted(s, m), m)
            if s.standbys[m] < s.lsn:
                after = s._replace(standbys=replaced(s.standbys, m, s.standbys[m] + 1))
                if after.standbys[m] > s.due[m]:
                    after = self.adopted(after, m)
                yield f"{'bcd'[m]} flushes {after.standbys[m]}", self.replied(after, m)

    def adopted(self, s: State, m: int) -> State:
        due = NEVER if s.reloaded else s.due[m]
        return s._replace(views=replaced(s.views, m, s.names), due=replaced(s.due, m, due))

    def committed(self, s: State) -> State:
        lsn = s.lsn + 1
        return s._replace(lsn=lsn, acked=s.acked if s.waiting else lsn)

    def flagged(self, s: State) -> State:
        """The checkpointer takes the names up; when they are empty, it wakes everybody up."""
        waiting = s.names.k > 0
        return s._replace(waiting=waiting, acked=s.acked if waiting else s.lsn)

    def replied(self, s: State, m: int) -> State:
        """The walsender to m lets commits through: its own k, everybody's own membership."""
        k = s.views[m].k
        candidates = [i for i, view in enumerate(s.views) if i in view.members]
        if m not in candidates or len(candidates) < k:
            return s
        flushed = sorted((s.standbys[i] for i in candidates), reverse=True)
        return s._replace(acked=max(s.acked, flushed[k - 1]))

    # -- mistakes that are steps of their own ------------------------------------------------

    def wrong(self, s: State) -> Iterator[Step]:
        match self.mistake:
            case Mistake.NAMES_BEFORE_CAS:
                for rule in self.rules:
                    if rule != s.names:
                        yield f"writes the names {show(rule)} before the CAS", self.named(s, rule)
            case Mistake.LOST_CAS_TAKEN_AS_FAILED if s.slot and len(s.seen) > 1:
                # "The drop has failed, the older rule is still listed: back to its names."
                if s.names != s.seen[-2]:
                    yield "goes back without a CAS", self.named(s, s.seen[-2])
            case Mistake.UNDONE_BY_DROPPING_THE_NEWER if len(s.seen) > 1:
                yield from self.cas("drops the newer rule", s, s.seen[:-1])
            case _:
                return
