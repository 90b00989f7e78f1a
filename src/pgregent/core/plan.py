"""Asking for work: one CAS, one PostgreSQL effect and one barrier at a time."""

from dataclasses import replace

from pgregent.core.durability import synchronous_standby_names
from pgregent.core.effects import (
    ApplyRule,
    Barrier,
    Clone,
    Follow,
    Initdb,
    PostgresEffect,
    Probe,
    Promote,
    Rewind,
    Seal,
    Start,
    Stop,
    WriteRegister,
)
from pgregent.core.types import Durable, Incarnation, Register, Rule, Stage
from pgregent.core.view import State

CAS_RETRY = 0.05
"""Seconds before another CAS after one that was refused or unknown."""
PROBE_EVERY = 0.1
LIGHT_RETRY = 0.2
HEAVY_RETRY = 2.0
"""Seconds before a PostgreSQL effect that failed is tried again."""


def write(state: State, register: Register) -> None:
    """Ask for a CAS from the newest register seen to `register`."""
    if state.cas is not None or state.register_lost or state.dcs_foreign:
        return
    if state.now - state.cas_failed_at < CAS_RETRY:
        return
    expected = state.register.seq if state.register is not None else 0
    state.cas = WriteRegister(expected, register)
    state.out.append(state.cas)


def do(state: State, effect: PostgresEffect, *, preempt: bool = False) -> bool:
    """Ask for a PostgreSQL effect, if none is in hand (or in its place). Whether it was asked."""
    if state.pg is not None and (not preempt or state.pg == effect):
        return False
    heavy = isinstance(effect, Start | Initdb | Rewind | Clone)
    wait = HEAVY_RETRY if heavy else LIGHT_RETRY
    if not isinstance(effect, Stop) and state.now - state.pg_failed_at < wait:
        return False
    if isinstance(effect, Start | ApplyRule) and effect.rule is not None:
        # From here on the names may be empty, whatever becomes of the effect: only a CHECKPOINT
        # after the next reload makes the sync flag certain again.
        state.names_were_empty = state.names_were_empty or not synchronous_standby_names(
            effect.rule
        )
    if isinstance(effect, ApplyRule):
        # Nothing is known of the rule in force until it is done, also if it fails.
        state.applied = state.barriered = state.barrier = None
    if isinstance(effect, Seal | Follow | Promote):
        state.upstream, state.upstream_term = None, 0
    state.pg = effect
    state.out.append(effect)
    return True


def commit_barrier(state: State, rule: Rule, term: int) -> None:
    """Ask for a barrier under `rule`; one under another rule is abandoned, not cancelled."""
    if state.barrier is None or state.barrier.rule != rule or state.barrier.term != term:
        state.barriers += 1
        state.barrier = Barrier(rule, term, state.barriers)
        state.out.append(state.barrier)


def probe(state: State, name: str) -> None:
    """Ask for a fresh connection to a peer's PostgreSQL, one at a time, ten times a second."""
    peer = state.peer(name)
    if not peer.probing and state.now - peer.probe_asked_at >= PROBE_EVERY:
        peer.probing, peer.probe_asked_at = True, state.now
        state.out.append(Probe(name))


def remake(durable: Durable, stage: Stage) -> Durable:
    """The durable state of a data directory that is about to be made anew: as a new incarnation,
    since what it acknowledged may be lost by it."""
    base = durable.incarnation.id.partition(".")[0]
    count = durable.remade + 1
    return replace(
        durable,
        incarnation=Incarnation(durable.incarnation.name, f"{base}.{count}"),
        stage=stage,
        remade=count,
        promoting=0,
        promoted=0,
    )
