"""What becomes of the state when an effect was done, when it failed, and when the server ended."""

from dataclasses import replace

from pgregent.core.durability import synchronous_standby_names
from pgregent.core.effects import (
    Admit,
    ApplyRule,
    Barrier,
    Checkpoint,
    Clone,
    Follow,
    Initdb,
    PostgresEffect,
    Promote,
    Rewind,
    Seal,
    Start,
    Stop,
)
from pgregent.core.election import vote_is_eligible
from pgregent.core.events import Created, Done, Failed, Promoted, Sealed
from pgregent.core.restart import end_restart
from pgregent.core.types import PgState, Position, Postgres, Rule, Stage, Vote
from pgregent.core.view import Restarting, State

DIED_SOON = 10.0
"""Seconds: a server that dies this soon after its start counts as one that did not start."""


def server_exited(state: State, why: str) -> None:
    """The guard saw the server end, or it was found gone."""
    if isinstance(state.pg, Stop):
        return
    if state.running or state.pg is not None:
        state.announce("postgres_exited", why)
        end_restart(state, why)
    nothing_ran = state.postgres.state in (PgState.STOPPED, PgState.ABSENT)
    if not nothing_ran or isinstance(state.pg, Start):
        state.may_start = False
    state.exited_at = state.now
    if isinstance(state.pg, Start) or state.now - state.server_started_at < DIED_SOON:
        state.start_failures += 1
        state.pg_failed_at = state.now
    if not isinstance(state.pg, Initdb | Rewind | Clone):
        state.pg = None
    state.postgres = Postgres(PgState.STOPPED, system_id=state.postgres.system_id)
    _forget_server(state)


def _forget_server(state: State) -> None:
    state.effects_done += 1
    state.opened, state.applied, state.barriered = False, None, None
    state.upstream, state.upstream_term, state.barrier = None, 0, None
    state.stuck_lsn = -1
    state.vote, state.written_seq, state.deadline_kept, state.closed = None, -1, None, True
    state.durable = replace(state.durable, promoting=0)


def effect_done(state: State, answer: Done) -> None:
    """An effect was done; an answer to one that is no longer in hand changes nothing."""
    effect = answer.effect
    if isinstance(effect, Barrier):
        if state.barrier == effect:
            state.barrier = None
            if state.applied == effect.rule:
                state.barriered, state.reclaim_armed = effect.rule, True
        return
    if state.pg != effect:
        return
    state.pg = None
    state.effects_done += 1
    if answer.postgres is not None:
        state.postgres = answer.postgres
    _conclude(state, effect, answer.result)


def _conclude(
    state: State, effect: PostgresEffect, result: Sealed | Promoted | Created | None
) -> None:
    match effect:
        case Stop():
            _stopped(state)
        case Start(term, rule, upstream, deadline):
            state.deadline_kept, state.closed = deadline, rule is not None
            state.began, state.server_started_at = True, state.now
            state.restarting = Restarting.NO
            # What the guard was told while nothing ran did not count.
            state.deadline_told_at = float("-inf")
            _apply(state, rule)
            if upstream is not None:
                why = f"streams from {upstream.name} in term {term}"
                state.announce("follow", why, how="follow")
            state.upstream, state.upstream_term = upstream, term if upstream else 0
        case Follow(upstream, term):
            state.upstream, state.upstream_term = upstream, term
            state.announce("follow", f"streams from {upstream.name} in term {term}", how="follow")
        case Seal():
            state.upstream, state.upstream_term = None, 0
            if isinstance(result, Sealed):
                _vote(state, result)
        case Admit():
            state.closed = False
        case Promote():
            # A standby lets clients in.
            state.closed = False
            if isinstance(result, Promoted):
                _promoted(state, effect, result)
        case ApplyRule(rule):
            _apply(state, rule)
        case Rewind(_, term):
            state.durable = replace(state.durable, stage=Stage.REWOUND, rewound=term)
            state.needs_rewind = state.start_failures = 0
        case Clone():
            state.durable = replace(state.durable, stage=Stage.NONE)
            state.needs_rewind, state.clone_unproven = 0, True
        case Checkpoint():
            state.checkpointed = True
        case Initdb():
            _created(state, result)


def _stopped(state: State) -> None:
    state.exited_at, state.may_start = state.now, True
    if state.restarting is Restarting.STOPPING:
        state.restarting, state.holding = Restarting.STARTING, False
    _forget_server(state)


def _created(state: State, created: Sealed | Promoted | Created | None) -> None:
    if not isinstance(created, Created):
        return
    state.postgres = replace(state.postgres, system_id=created.system_id)
    register = state.register
    if register is not None and (register.term or register.primary != state.me):
        # There is a cluster after all, and this directory is not of it.
        state.durable = replace(state.durable, stage=Stage.CLONE)


def _apply(state: State, rule: Rule | None) -> None:
    state.applied, state.barriered = rule, None
    state.names_were_empty = rule is not None and not synchronous_standby_names(rule)


def _vote(state: State, sealed: Sealed) -> None:
    eligible, reason = vote_is_eligible(state)
    state.voted_at = state.now
    own = state.postgres.system_id
    history = sealed.newest_history
    state.vote = Vote(sealed.round, sealed.position, history, eligible, reason, own)


def _promoted(state: State, effect: Promote, promoted: Promoted) -> None:
    if promoted.timeline != effect.term:
        state.announce(
            "fenced", f"promoted to timeline {promoted.timeline} instead of {effect.term}"
        )
        return
    state.durable = replace(state.durable, promoted=effect.term, promoting=0)
    _apply(state, None)
    position = Position(promoted.timeline, promoted.start)
    state.postgres = replace(state.postgres, state=PgState.PRIMARY, position=position)
    state.began, state.restarted = True, False
    state.promotion = promoted


def effect_failed(state: State, answer: Failed) -> None:
    """An effect failed, or it is not known whether it was done."""
    if isinstance(answer.effect, Barrier):
        if state.barrier == answer.effect:
            # Perhaps other names are in force: apply the rule again before the next one.
            state.barrier = state.applied = None
        return
    if state.pg != answer.effect:
        return
    state.pg = None
    state.effects_done += 1
    state.pg_failed_at = state.now
    if answer.postgres is not None:
        state.postgres = answer.postgres
    if isinstance(answer.effect, Checkpoint):
        state.checkpointed = True
    state.announce("failed", f"{type(answer.effect).__name__.lower()}: {answer.reason}")
    if isinstance(answer.effect, Rewind):
        # A rewind that failed leaves a directory that cannot be used.
        state.durable = replace(state.durable, stage=Stage.CLONE)
        state.needs_rewind = 0
    if isinstance(answer.effect, Stop) and state.postgres.state is PgState.STOPPED:
        # Its guard died meanwhile, and the next one ended what ran.
        _stopped(state)
    if isinstance(answer.effect, Start):
        end_restart(state, answer.reason)
        _forget_server(state)
