"""Suspicion, pre-vote, votes, and who may be appointed."""

from collections.abc import Mapping
from dataclasses import replace

from pgregent.core.durability import make_rule, satisfies_all, with_rule
from pgregent.core.types import (
    NOBODY,
    Incarnation,
    PgState,
    Register,
    Stage,
    Suspicion,
    Term,
    Vote,
)
from pgregent.core.view import Leaving, State

_NOT_RUNNING = (PgState.STOPPED, PgState.ABSENT, PgState.STARTING)
STUCK_LIMIT = 3.0
"""Seconds, at least, without an answer of the primary's PostgreSQL that count against it: a healthy
one is asked afresh about every 1.5 s."""
MAX_TERMS = 32
"""Older terms are forgotten; a log that ends in one of those is cloned anew."""


def suspicion(state: State) -> Suspicion | None:
    """Whether, and on what evidence, this member holds the primary for gone."""
    register = state.register
    if register is None or register.electing or register.term == 0 or state.is_primary:
        return None
    name, term = register.primary.name, register.term
    peer = state.peer(name)
    record = peer.record
    if record is not None and not peer.closed and peer.heard_at >= state.started_at:
        if record.incarnation != register.primary:
            return Suspicion(term, True, f"{name} was made anew and no longer has the cluster")
        if record.down:
            return Suspicion(term, True, f"{name} says that its PostgreSQL is gone")
    if peer.answers_nothing:
        why = f"{name}'s agent is gone and its PostgreSQL does not answer"
        return Suspicion(term, True, why)
    grace = state.started_at + state.settings.startup_grace
    first = peer.heard_at if peer.heard_at >= state.started_at else grace
    heard = max(first, state.awake_since)
    answered = peer.probed_ok_at
    silent = state.now - max(heard, answered)
    if silent >= state.settings.suspect_after:
        return Suspicion(term, False, f"nothing was heard of {name} for {silent:.1f} s")
    if state.now - heard >= state.settings.lease:
        return Suspicion(term, False, f"{name}'s agent was not heard for {state.now - heard:.1f} s")
    since = max(peer.not_primary_since, state.register_seen_at, state.started_at)
    if state.now - since >= state.settings.startup_grace:
        waited = state.now - since
        own_word = record is not None and record.state in _NOT_RUNNING
        return Suspicion(
            term, own_word, f"{name} has not become a running primary in {waited:.0f} s"
        )
    stuck = record.answered_ago if record is not None and record.serving else 0.0
    limit = max(3 * state.settings.suspect_after, STUCK_LIMIT)
    if stuck >= limit and silent < state.settings.suspect_after:
        return Suspicion(term, False, f"{name}'s PostgreSQL has not answered for {stuck:.1f} s")
    return None


def wants_probe(state: State) -> bool:
    """Whether the primary's PostgreSQL should be asked itself: its channel closed or it is late."""
    register = state.register
    if register is None or register.electing or register.term == 0 or state.is_primary:
        return False
    peer = state.peer(register.primary.name)
    late = state.now - max(peer.heard_at, state.started_at) > 3 * state.settings.heartbeat
    return peer.closed or late


def pre_vote(state: State) -> frozenset[Incarnation] | None:
    """The members who agree that the primary is gone, if they could elect; else None.

    Silence needs a majority of the nodes that the rule in force names, or, with two nodes, a beat
    in the DCS that has stopped as well.
    """
    register, mine = state.register, state.suspicion
    assert register is not None
    if mine is None:
        return None
    agree = {state.me}
    positive = mine.positive
    eligible = not state.settings.nofailover
    for name in state.peers:
        record = state.heard_lately(name)
        if record is not None and record.incarnation == register.primary and record.down:
            # It will seal and vote from its disk like the others.
            agree.add(record.incarnation)
            continue
        if record is None or record.suspicion is None or record.leaving:
            continue
        if record.suspicion.term == register.term:
            agree.add(record.incarnation)
            positive = positive or record.suspicion.positive
            eligible = eligible or record.eligible
    holders = frozenset(agree)
    if not eligible or not satisfies_all(register, holders):
        return None
    nodes = {register.primary, *register.rule.members}
    if not positive and len(holders & nodes) * 2 <= len(nodes) and not _beat_stopped(state):
        return None
    return holders


def _beat_stopped(state: State) -> bool:
    register = state.register
    assert register is not None
    peer = state.peer(register.primary.name)
    if not state.dcs_ok:
        return False
    since = max(peer.beat_changed_at, state.started_at)
    return state.now - since >= state.settings.suspect_after


def rank(state: State, holders: frozenset[Incarnation]) -> int:
    """This member's place among those who could act, so that one acts first."""
    return sorted(holders | {state.me}).index(state.me)


def votes(state: State, register: Register) -> Mapping[Incarnation, Vote]:
    """The votes given for the register's round, one's own included."""
    found = {
        peer.record.incarnation: peer.record.vote
        for peer in state.peers.values()
        if peer.record is not None
        and peer.record.vote is not None
        and peer.record.vote.round == register.round
        and peer.record.vote.system_id == register.system_id
    }
    if state.vote is not None and state.vote.round == register.round:
        found[state.me] = state.vote
    return found


def choose(register: Register, cast: Mapping[Incarnation, Vote]) -> Incarnation | None:
    """Who may be appointed: eligible, and at least as far as every member of some set of voters
    that satisfies every rule. The set of all voters that are not ahead is the largest such set."""
    appointed = {t.term for t in register.terms if t.writer != NOBODY}
    forgotten = min(appointed, default=1)
    by_name = sorted(cast)
    for winner in sorted(by_name, key=lambda m: cast[m].position, reverse=True):
        vote = cast[winner]
        timeline = vote.position.timeline
        if not vote.eligible or (timeline not in appointed and timeline >= forgotten):
            continue
        behind = frozenset(m for m, v in cast.items() if v.position <= vote.position)
        if satisfies_all(register, behind):
            return winner
    return None


def elect(register: Register, why: str) -> Register:
    """The register with an election begun: the next round."""
    return replace(register, seq=register.seq + 1, round=register.round + 1, electing=True, why=why)


def cancel(register: Register, why: str) -> Register:
    """The register with its election cancelled; the primary stays."""
    return replace(register, seq=register.seq + 1, electing=False, why=why)


def appoint(
    state: State,
    register: Register,
    winner: Incarnation,
    cast: Mapping[Incarnation, Vote],
    why: str,
) -> Register:
    """The register with `winner` in office. Its rule is appended: the older ones stay until a
    barrier of the new term is acknowledged. The first members are those that need no rewind."""
    vote = cast[winner]
    newest = max([register.term, *(t.term for t in register.terms)])
    term = 1 + max([newest, *(v.newest_history for v in cast.values())])
    followers = tuple(
        m
        for m, v in cast.items()
        if m != winner
        and v.position.timeline == vote.position.timeline
        and v.position.lsn <= vote.position.lsn
        and _may_be_synchronous(state, m)
    )
    entry = Term(term, winner, vote.position.timeline, vote.position.lsn, why, state.epoch)
    return replace(
        register,
        seq=register.seq + 1,
        term=term,
        primary=winner,
        rules=with_rule(register, make_rule(state, winner, followers)),
        electing=False,
        terms=(*register.terms, entry)[-MAX_TERMS:],
        why=why,
    )


def _may_be_synchronous(state: State, member: Incarnation) -> bool:
    if member == state.me:
        return not state.settings.nosync
    record = state.peer(member.name).record
    return record is not None and record.sync and not record.leaving


def renew_eligibility(state: State) -> None:
    """Correct the vote that was given where this member may be appointed no longer, or again; what
    the vote says of its log stands."""
    if state.vote is not None:
        eligible, reason = vote_is_eligible(state)
        if eligible != state.vote.eligible:
            state.vote = replace(state.vote, eligible=eligible, reason=reason)


def vote_is_eligible(state: State) -> tuple[bool, str]:
    """Whether this member may be appointed, and if not, why."""
    if state.settings.nofailover:
        return False, "it is tagged nofailover"
    if state.leaving is not Leaving.NO:
        return False, "it is leaving"
    if state.postgres.replay_paused:
        return False, "its replay is paused (parameters too low, or by hand)"
    if state.postgres.state is not PgState.STANDBY:
        return False, "its PostgreSQL is not running"
    if state.durable.stage is not Stage.NONE:
        return False, "its data directory has to be cloned"
    return True, ""
