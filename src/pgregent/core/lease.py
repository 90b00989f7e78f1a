"""Until when a primary may serve: authority is always counted from when the question was sent."""

from pgregent.core.types import Register
from pgregent.core.view import State


def grant_for(state: State) -> int:
    """The term whose primary this member has not sealed against (0: it has)."""
    register = state.register
    return 0 if register is None or register.electing else register.term


def authority_until(state: State) -> float | None:
    """When this primary's authority ends; None: no end, since nobody else can be appointed while
    a rule that only this writer satisfies is the one in force.

    Authority is a linearizable read that showed this member in office, or grants of k members of
    the last rule: k unsealed members leave fewer than the |members| - k + 1 that an election needs.
    The older rules do not count: that they were dropped may have landed unheard (tests/model).
    """
    register = state.register
    assert register is not None
    if state.settings.synchronous and register.rule.k == 0:
        return None
    return max(state.read_at, _granted_at(state, register)) + state.settings.lease


def _granted_at(state: State, register: Register) -> float:
    rule = register.rule
    if rule.k == 0 or rule.writer != state.me:
        return float("-inf")
    granted: list[float] = []
    for member in rule.members:
        peer = state.peers.get(member.name)
        if peer is None or peer.record is None or peer.record.incarnation != member:
            continue
        if peer.granted_term == register.term:
            granted.append(peer.granted_at)
    granted.sort(reverse=True)
    return granted[rule.k - 1] if len(granted) >= rule.k else float("-inf")


def has_authority(state: State) -> bool:
    """Whether this primary may serve right now."""
    until = authority_until(state)
    return until is None or state.now < until
