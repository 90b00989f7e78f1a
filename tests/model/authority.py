"""Until when a primary may serve reads, as a definition that can be run, in discrete time.

Node a is the primary of term 1. Its commits are no matter here (the seals see to them): this is
about how long it goes on answering reads when a successor has opened that it knows nothing of.

What the model leaves out, and why that loses nothing:

* Times are ages in ticks, and everything beyond the lease is equally old. A step takes no time, and
  any number of them fits between two ticks.
* An agent that is frozen, or cut off, is one that takes no step; so is every peer. The guard runs
  whenever the machine does.
* An answer is given in the moment of the question, and may come late: given later, a grant would
  say more. One that is lost is one that the next takes the place of; one without a grant is none.
* A successor opens as soon as it is appointed: later would be kinder. There is one.
* Rules are dropped without a barrier: that loses commits (rule_change.py), not authority.
"""

from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, NamedTuple


class Mistake(Enum):
    """Each is planted at the line it would be made at; the model must notice."""

    NONE = auto()
    COUNTED_FROM_THE_REPLY = auto()
    GRANT_OF_ANY_TERM = auto()
    GRANT_BY_A_SEALED_MEMBER = auto()
    NEWEST_OF_K_GRANTS = auto()
    GRANTS_UNDER_ANY_LISTED_RULE = auto()
    READ_OF_A_FOLLOWER = auto()
    DEADLINE_NOT_TOLD = auto()
    DROP_BEFORE_THE_GUARD_IS_TOLD = auto()
    CLOCK_STOPS_IN_SUSPEND = auto()
    COUNTED_FROM_WAKING_UP = auto()


class Rule(NamedTuple):
    """`ANY k (members)` of writer a; k = 0: a alone."""

    k: int
    members: tuple[int, ...] = ()


class Register(NamedTuple):
    rules: tuple[Rule, ...]
    electing: bool = False
    term: int = 1


FOREVER = 99
SEALED, SEALED_EARLIER = 0, -1


class State(NamedTuple):
    """`copy` is a's; `sees` is what each member would grant: a term, or nothing once sealed."""

    register: Register
    copy: Register
    sees: tuple[int, ...]
    asked: tuple[int, ...]  # the age of the answer under way from each, and from the DCS; -1: none
    proved: tuple[int, ...]  # the age of the newest question to each that was answered well
    left: int  # ticks that the guard lets PostgreSQL run; FOREVER: no deadline
    up: bool = True
    asleep: bool = False
    opened: int = -1  # the age of the successor's opening
    changes: int = 0


Step = tuple[str, State]


class Authority:
    """The protocol within bounds: rules out of `rules`, the first one to begin with; `dcs`: it
    answers when it is read; `suspends`: the machine of a may be."""

    def __init__(
        self,
        mistake: Mistake = Mistake.NONE,
        *,
        rules: tuple[Rule, ...],
        changes: int = 0,
        lease: int = 2,
        suspends: bool = False,
        dcs: bool = True,
    ) -> None:
        self.mistake = mistake
        self.rules = rules
        self.lease = lease
        self.suspends = suspends
        self.dcs = dcs
        self.old = lease + 1
        n = 1 + max(m for r in rules for m in r.members)
        register = Register(rules[:1])
        left = lease if rules[0].k else FOREVER
        self.initial = State(
            register, register, (1,) * n, (-1,) * (n + 1), (0,) * (n + 1), left, changes=changes
        )

    def broken(self, s: State) -> str | None:
        if s.up and not s.asleep and s.opened >= self.lease:
            return f"serves reads {s.opened} ticks after its successor opened"
        return None

    def actions(self, s: State) -> Iterator[Step]:
        if not s.up:
            return
        yield "time goes on", self.later(s)
        yield from self.elects(s)
        if s.asleep:
            yield "a wakes up", self.awakes(s)
        else:
            if self.suspends:
                yield "a is suspended", s._replace(asleep=True)
            yield from self.proves(s)
            yield from self.changes_rule(s)

    # -- time --------------------------------------------------------------------------------

    def later(self, s: State) -> State:
        if s.opened >= 0:
            s = s._replace(opened=min(s.opened + 1, self.old))
        if s.asleep and self.mistake is Mistake.CLOCK_STOPS_IN_SUSPEND:
            return s
        asked = tuple(min(age + 1, self.old) if age >= 0 else -1 for age in s.asked)
        proved = tuple(min(age + 1, self.old) for age in s.proved)
        left = s.left if s.left == FOREVER else max(0, s.left - 1)
        s = s._replace(asked=asked, proved=proved, left=left)
        return s if s.asleep else self.guarded(s)

    def guarded(self, s: State) -> State:
        """The guard stops PostgreSQL when the deadline has passed. (Without one, the agent does,
        when it is not frozen.)"""
        if s.left or not s.up or self.mistake is Mistake.DEADLINE_NOT_TOLD:
            return s
        return self.stopped(s)

    def stopped(self, s: State) -> State:
        return s._replace(
            up=False, left=0, asked=(-1,) * len(s.asked), proved=(self.old,) * len(s.proved)
        )

    def awakes(self, s: State) -> State:
        s = s._replace(asleep=False)
        if self.mistake is Mistake.COUNTED_FROM_WAKING_UP and s.left != FOREVER:
            return s._replace(left=self.lease)
        return self.guarded(s)

    # -- the others --------------------------------------------------------------------------

    def elects(self, s: State) -> Iterator[Step]:
        """Seal, and appoint once the sealed members satisfy every listed rule without a."""
        r = s.register
        if not r.electing and r.term == 1:
            yield "an election begins", s._replace(register=r._replace(electing=True))
        for m, sees in enumerate(s.sees):
            if r.electing and sees in (1, SEALED_EARLIER):
                yield f"{name(m)} seals", s._replace(sees=put(s.sees, m, SEALED))
            if not r.electing and sees == SEALED_EARLIER:
                yield f"{name(m)} sees the register", s._replace(sees=put(s.sees, m, 1))
            if r.term == 2 and sees != 2:
                yield f"{name(m)} sees term 2", s._replace(sees=put(s.sees, m, 2))
        sealed = {m for m, sees in enumerate(s.sees) if sees == SEALED}
        enough = all(len(sealed & {*r.members}) >= len(r.members) - r.k + 1 for r in r.rules)
        if r.electing and enough:
            after = s._replace(register=r._replace(term=2, electing=False), opened=0)
            yield "a successor is appointed and opens", after

    # -- authority ---------------------------------------------------------------------------

    def proves(self, s: State) -> Iterator[Step]:
        """Ask, be answered, count that from when it was asked, tell the guard."""
        for m, asked in enumerate(s.asked):
            who = "the DCS" if m == len(s.sees) else name(m)
            if asked != 0 and self.answers(s, m):
                yield f"a asks {who}", s._replace(asked=put(s.asked, m, 0))
            if asked >= 0:
                age = 0 if self.mistake is Mistake.COUNTED_FROM_THE_REPLY else asked
                proved = put(s.proved, m, min(s.proved[m], age))
                yield f"a hears {who}", s._replace(proved=proved, asked=put(s.asked, m, -1))
        if (left := self.authority(s)) != s.left and (left > s.left or s.left == FOREVER):
            yield "a tells its guard", self.guarded(s._replace(left=left))
        if s.register != s.copy:
            if s.register.term == 2:
                yield "a sees that it was superseded", self.stopped(s)
            elif not s.register.electing:
                yield "a sees the register", s._replace(copy=s.register)
            else:
                after = s.register._replace(electing=False)
                sees = tuple(SEALED_EARLIER if m == SEALED else m for m in s.sees)
                yield "a takes its office back", s._replace(register=after, copy=after, sees=sees)

    def answers(self, s: State, m: int) -> bool:
        """Whether a counts an answer that is given now."""
        if m == len(s.sees):
            linearizable = self.mistake is not Mistake.READ_OF_A_FOLLOWER
            return self.dcs and (s.register == s.copy or not linearizable)
        if s.sees[m] in (SEALED, SEALED_EARLIER):
            return self.mistake is Mistake.GRANT_BY_A_SEALED_MEMBER
        return s.sees[m] == 1 or self.mistake is Mistake.GRANT_OF_ANY_TERM

    def authority(self, s: State) -> int:
        """Ticks that are left: of a read, or of grants of k members of the rule in force (the
        older ones may be listed no more: the reply may have been lost)."""
        rules = s.copy.rules[-1:]
        if rules[0].k == 0:
            return FOREVER
        if self.mistake is Mistake.GRANTS_UNDER_ANY_LISTED_RULE:
            rules = s.copy.rules
        ages = [s.proved[-1], *(self.granted(s, rule) for rule in rules if rule.k)]
        return max(0, self.lease - min(ages))

    def granted(self, s: State, rule: Rule) -> int:
        ages = sorted(s.proved[m] for m in rule.members)
        return ages[0 if self.mistake is Mistake.NEWEST_OF_K_GRANTS else rule.k - 1]

    # -- rules -------------------------------------------------------------------------------

    def changes_rule(self, s: State) -> Iterator[Step]:
        """Append, drop the older ones; a may not hear that it was done."""
        r = s.copy
        if s.register != r or r.electing:
            return
        steps = list[tuple[str, Register, State]]()
        if s.changes:
            spent = s._replace(changes=s.changes - 1)
            for rule in self.rules:
                if rule not in r.rules:
                    steps.append((f"appends {show(rule)}", Register((*r.rules, rule)), spent))
        deadline = r.rules[-1].k == 0 or s.left != FOREVER
        told = deadline or self.mistake is Mistake.DROP_BEFORE_THE_GUARD_IS_TOLD
        if len(r.rules) > 1 and told:
            steps.append(("drops the older rules", Register(r.rules[-1:]), s))
        for label, new, after in steps:
            yield label, after._replace(register=new, copy=new)
            yield f"{label} (no reply)", after._replace(register=new)


def put(values: tuple[Any, ...], i: int, value: Any) -> tuple[Any, ...]:
    return (*values[:i], value, *values[i + 1 :])


def name(member: int) -> str:
    return "bcd"[member]


def show(rule: Rule) -> str:
    return f"ANY {rule.k} ({', '.join(map(name, rule.members))})" if rule.k else "''"
