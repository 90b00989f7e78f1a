"""How a server rejoins: follow, rewind, clone, or wait until that can be told."""

from enum import Enum

from pgregent.core.types import Position, Register


class Rejoin(Enum):
    """What brings a data directory onto the current term's timeline."""

    FOLLOW = "follow"
    REWIND = "rewind"
    CLONE = "clone"


def fork_lsn(register: Register, timeline: int) -> int | None:
    """Where the current term's lineage leaves `timeline`; None: it never was on it."""
    by_term = {t.term: t for t in register.terms}
    current = by_term.get(register.term)
    while current is not None:
        if current.parent == timeline:
            return current.start
        current = by_term.get(current.parent)
    return None


def rejoin(register: Register, position: Position) -> Rejoin:
    """What a log that ends at `position` needs. A log on the current timeline is a prefix of it,
    since a timeline has one writer."""
    if position.timeline == register.term:
        return Rejoin.FOLLOW
    fork = fork_lsn(register, position.timeline)
    if fork is not None and position.lsn <= fork:
        return Rejoin.FOLLOW
    return Rejoin.REWIND


def fork_is_final(register: Register) -> bool:
    """Whether the current term's promotion and barrier are recorded: only then may anything that
    an older term's rule counts on be rewound or cloned over."""
    return not register.electing and all(r.writer == register.primary for r in register.rules)
