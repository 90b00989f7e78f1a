"""A primary with its standbys b, c and d while its durability rule changes, and what must hold.

The election is not played here (election.py does): whatever set of standbys satisfies every listed
rule may win at any moment, so the furthest of each such set must hold all that was acknowledged.
A standby streams and replies in one step; a reply that is handled later lets fewer commits through.

PostgreSQL as it is: there is no one idea of synchronous_standby_names. The walsender that handles a
reply takes k from its own, and counts every standby whose own walsender thinks that it is a member.
Each takes new names up late, but before it handles a reply about WAL written after the postmaster
passed the reload on. So meanwhile a mixture of both rules lets commits through: with k > 1 it can
be weaker than both, and is listed as a rule of its own. A backend does not wait at all while
`waiting`, which only the checkpointer sets, says that the names are empty.
"""

from itertools import combinations
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """`ANY k (members)`; k = 0: empty names, the primary alone."""

    k: int
    members: tuple[int, ...]


Rules = tuple[Rule, ...]
B, C, D = 0, 1, 2
ANY_1 = (Rule(0, ()), Rule(1, (B,)), Rule(1, (C,)), Rule(1, (B, C)))
ANY_2 = (Rule(0, ()), Rule(1, (B,)), Rule(1, (B, C)), Rule(2, (B, C)))
THREE = (Rule(1, (B,)), Rule(2, (B, C)), Rule(2, (C, D)), Rule(2, (B, C, D)))
NEVER = 99


class State(NamedTuple):
    register: Rules
    slot: Rules | None  # a CAS without a reply; it expects the register as it is now
    seen: Rules  # the newest register that the primary has seen (durable)
    up: bool
    names: Rule  # in the configuration file
    older: Rule  # the names before those, for a file that was not fsynced (a mistake)
    reloaded: bool  # a connection opened now shows them
    views: Rules  # the names of the walsenders to b, c and d
    due: tuple[int, ...]  # a reply beyond this LSN makes sure that a walsender read them
    waiting: bool  # the checkpointer's flag: commits wait for standbys
    checkpoint_due: bool  # the names were empty; no checkpoint since
    barrier: int  # LSN of the barrier made under these names; 0: none
    lsn: int
    standbys: tuple[int, ...]  # LSNs of b, c and d
    acked: int  # the highest LSN acknowledged
    writes: int
    changes: int


def broken(s: State) -> str | None:
    for size in range(1, len(s.standbys) + 1):
        for voters in combinations(range(len(s.standbys)), size):
            winner = max(s.standbys[v] for v in voters)
            if winner < s.acked and all(satisfied(rule, voters) for rule in s.register):
                who = "+".join("bcd"[v] for v in voters)
                return f"S1: {who} may win an election without LSN {s.acked}"
    return None


def satisfied(rule: Rule, voters: tuple[int, ...]) -> bool:
    """The writer is dead, so |members| - k + 1 of the members it takes."""
    return sum(m in voters for m in rule.members) >= len(rule.members) - rule.k + 1


def replaced(values: tuple[Any, ...], i: int, value: Any) -> tuple[Any, ...]:
    return (*values[:i], value, *values[i + 1 :])


def show(rule: Rule) -> str:
    return f"ANY {rule.k} ({', '.join('bcd'[m] for m in rule.members)})" if rule.k else "''"
