"""Taking a cluster over from Patroni: what is refused, and what is written.

Patroni's primary becomes the primary of the first register, in the term that its
timeline is, and under the rule that only it satisfies: its log holds everything that its timeline
acknowledged. That it is Patroni's last primary is what Patroni's keys have to show. The order is
safe wherever it ends: first the member's own state is on disk, so that the register never names an
incarnation that nobody is; then the register is created, by a CAS that expects none, so that no two
hosts are both adopted as the primary; a state without that register does nothing. Done again, it
goes on where it ended.
"""

from dataclasses import dataclass, replace

from pgregent.core.election import MAX_TERMS
from pgregent.core.errors import Refused
from pgregent.core.history import fork_is_final
from pgregent.core.types import Durable, Incarnation, Register, Rule, Stage, Term


@dataclass(frozen=True, slots=True)
class Ended:
    """A timeline that ended, as Patroni's key `history` or PostgreSQL's own file tells: where (LSN
    in bytes), and, from Patroni, why, when (epoch seconds) and who came next."""

    timeline: int
    at_lsn: int
    why: str = ""
    at: float = 0.0
    successor: str = ""


@dataclass(frozen=True, slots=True)
class PatronisWord:
    """What Patroni's keys say. `running`: whose keys are there that go when Patroni ends."""

    running: tuple[str, ...] = ()
    system_id: str = ""
    primary: str = ""
    """Whom the key `sync` names."""
    log_end: int = 0
    """How far the primary's log went, at least: bytes."""
    history: tuple[Ended, ...] = ()

    @property
    def timeline(self) -> int:
        """The newest that it knows of; 1 if none has ended."""
        return self.history[-1].timeline + 1 if self.history else 1

    @property
    def last_primary(self) -> str:
        """Empty if the keys do not tell."""
        return self.primary or (self.history[-1].successor if self.history else "")


@dataclass(frozen=True, slots=True)
class DataDir:
    """What the data directory is. `log_end` is 0 where it cannot be told without a recovery."""

    system_id: str
    timeline: int
    is_standby: bool
    log_end: int = 0
    lineage: tuple[Ended, ...] = ()
    """The timelines that its own descends from, oldest first."""


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Save `durable`; where the DCS has the register of version `expected` (its seq; 0: none), put
    `register` there; then save it with that."""

    durable: Durable
    expected: int
    register: Register


@dataclass(frozen=True, slots=True)
class Join:
    """A standby that can be started under its agent: save `durable`."""

    durable: Durable


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing needs to be done, and why."""

    why: str


def adopt(
    own: Durable,
    data: DataDir,
    word: PatronisWord,
    register: Register | None,
    *,
    now: float,
    strict: bool = False,
) -> TakeOver | Join | Nothing:
    """How this member's data directory comes under pgregent at `now` (epoch seconds); `strict`: the
    primary may never acknowledge alone. Raises Refused: then nothing may be touched."""
    if word.running:
        raise Refused(
            f"Patroni still runs in this scope: found the keys of {', '.join(word.running)}, "
            "expected none; pause it, stop it on all hosts, and wait until they are gone, which "
            "takes up to `ttl`: 30 s by default"
        )
    in_force = register if register is not None and not register.released else None
    expected = in_force.system_id if in_force is not None else word.system_id
    if not expected:
        raise Refused("no key `initialize` of Patroni's in this scope: it has no cluster there")
    if data.system_id != expected:
        raise Refused(
            f"the data directory has system identifier {data.system_id}, the cluster in this "
            f"scope {expected}: it belongs to another cluster; correct scope or data_dir"
        )
    known = register or own.register
    if known is not None and (why := overtaken(known, word)):
        raise Refused(why)
    if in_force is not None:
        return _beside(own, data, in_force)
    if own.register is not None:
        raise Refused(
            "this member's state directory is of a cluster of pgregent that the DCS knows no more: "
            "run `pgregent release` here first"
            if register is not None
            else "this member belongs to a cluster of pgregent, and its register is not in the "
            "DCS: start the agents, which write it again"
        )
    _check_last_primary(own.incarnation.name, data, word)
    return _take_over(own, data, word, register, now=now, strict=strict)


def _beside(own: Durable, data: DataDir, register: Register) -> TakeOver | Join | Nothing:
    """The cluster has a register already."""
    me, primary = own.incarnation, register.primary
    if primary.name == me.name:
        if primary != me:
            raise Refused(
                f"{me.name} is the primary of this cluster of pgregent already, but its state "
                "directory is gone: bring it back beside the data directory"
            )
        if own.register is None:
            return TakeOver(own, register.seq, register)
        return Nothing(f"{me.name} is the primary of this cluster of pgregent already")
    if own.register is not None:
        return Nothing(f"{me.name} is a member of this cluster of pgregent already")
    if not data.is_standby:
        raise Refused(
            f"the data directory is a primary's, on timeline {data.timeline}, but the cluster's "
            f"primary is {primary.name}, in term {register.term}: have Patroni make it a standby "
            "before Patroni is stopped, or move it away, and the agent clones it"
        )
    if data.timeline > register.term:
        raise Refused(
            f"the data directory is on timeline {data.timeline}, past the primary's, which is "
            f"{register.term}: it was promoted by somebody; move it away, and the agent clones it"
        )
    if _is_anothers(data, register):
        raise Refused(
            f"its timeline {data.timeline} is not the primary's: it leaves timeline "
            f"{data.lineage[-1].timeline} elsewhere, since two hosts were promoted to one number; "
            "move the data directory away, and the agent clones it"
        )
    return Join(own)


def _is_anothers(data: DataDir, register: Register) -> bool:
    """Whether another than the register's writer began its timeline: such a log takes the primary's
    WAL, and acknowledges it, behind records that are not the primary's."""
    term = next((t for t in register.terms if t.term == data.timeline), None)
    if term is None or not data.lineage:
        return False
    if term.term == register.term and not fork_is_final(register):
        return False
    begun = data.lineage[-1]
    return (begun.timeline, begun.at_lsn) != (term.parent, term.start)


def _check_last_primary(name: str, data: DataDir, word: PatronisWord) -> None:
    if data.is_standby:
        who = word.last_primary
        found = f"it is {who}" if who and who != name else "see `patronictl list` or `history`"
        raise Refused(f"the data directory is a standby's: adopt the primary first: {found}")
    if not word.primary:
        # A primary of an asynchronous cluster tells of its promotion when it has acknowledged much.
        raise Refused(
            "Patroni's key `sync` names no primary, though synchronous_mode is on: whether another "
            "host was promoted last cannot be told; start Patroni again, wait until `patronictl "
            "list` shows the Leader and its Sync Standby, if it has a standby, and begin anew"
        )
    if word.primary != name:
        raise Refused(
            f"Patroni's last primary is {word.primary}, by its key `sync`, and not {name}: adopt "
            "that host first"
        )
    if data.timeline < word.timeline:
        raise Refused(
            f"the data directory is on timeline {data.timeline}, and Patroni's key `history` shows "
            f"that timeline {word.timeline} was begun: another host has newer commits; adopt the "
            "last primary"
        )
    if not data.log_end:
        raise Refused(
            "PostgreSQL is neither running nor shut down cleanly, so that where its log ends "
            "cannot be told: start it (pg_ctl start), and run this again"
        )
    if data.log_end < word.log_end:
        raise Refused(
            f"its log ends {word.log_end - data.log_end} bytes before the position in Patroni's "
            "key `status`: commits are missing here; adopt the last primary"
        )


def _take_over(
    own: Durable,
    data: DataDir,
    word: PatronisWord,
    released: Register | None,
    *,
    now: float,
    strict: bool,
) -> TakeOver:
    # Above what any agent has on its disk from an earlier life of this cluster, and every round
    # that it may have voted in.
    known = max(released.seq, released.round) if released is not None else 0
    fresh = max(known + 1, int(now * 1000))
    me, why = own.incarnation, f"{own.incarnation.name} was adopted from Patroni"
    parent = data.lineage[-1] if data.lineage else Ended(0, 0)
    last = Term(data.timeline, me, parent.timeline, parent.at_lsn, why, now)
    register = Register(
        seq=fresh,
        round=fresh,
        term=data.timeline,
        primary=me,
        rules=(Rule(me, 0, (), strict),),
        electing=False,
        system_id=data.system_id,
        terms=(*_past(data.lineage, word.history), last)[-MAX_TERMS:],
        why=why,
    )
    durable = replace(own, promoted=data.timeline, promoting=0, stage=Stage.NONE)
    return TakeOver(durable, released.seq if released is not None else 0, register)


def is_untouched(register: Register) -> bool:
    """Whether it is an adoption's, and no agent has written another since."""
    if not register.terms or register.seq != register.round:
        return False
    # Where the operator had a copy written again, its last term is one that nobody was in.
    last = register.terms[-1]
    return (last.term, last.why) == (register.term, register.why)


def overtaken(register: Register, word: PatronisWord) -> str:
    """Why Patroni must have made another host the primary after the register was written, which has
    newer commits then; empty if it did not.

    Agents keep Patroni's keys, too: `sync` may name a predecessor of theirs, but none has begun a
    timeline past the term.
    """
    name, term = register.primary.name, register.term
    succeeded = is_untouched(register) and word.primary not in ("", name)
    if not term or not (succeeded or word.timeline > term):
        return ""
    who = word.last_primary or "another host"
    return (
        f"Patroni was started again after {name} became the primary of term {term}, and by its "
        f"keys {who} was made the primary since: stop the agents, run `pgregent release` on all "
        f"hosts, and adopt {who} first"
    )


def _past(lineage: tuple[Ended, ...], told: tuple[Ended, ...]) -> tuple[Term, ...]:
    """The terms before the last one, so that a log that ends in one of them is told from one that
    has diverged. Their writers are names only: none of those incarnations is a member."""
    by_timeline = {ended.timeline: ended for ended in told}
    found: list[Term] = []
    before = Ended(0, 0)
    for ended in lineage:
        begun = by_timeline.get(before.timeline, before)
        writer = Incarnation(begun.successor or "unknown", "")
        found.append(
            Term(ended.timeline, writer, before.timeline, before.at_lsn, begun.why, begun.at)
        )
        before = ended
    return tuple(found)
