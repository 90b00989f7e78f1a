"""Nobody is in office: one member takes the register, runs initdb, and is primary of term 1; or the
cluster was given back to Patroni, and nobody does anything."""

from dataclasses import replace

from pgregent.core.effects import Exit, Initdb, Start, Stop
from pgregent.core.plan import do, write
from pgregent.core.types import PgState, Register, Rule, Stage, Term
from pgregent.core.view import State

TAKEOVER_AFTER = 30.0
"""Seconds of silence after which another member creates the cluster instead: nothing was
acknowledged before term 1, so nothing can be lost."""
LOOK_AROUND = 1.0
"""Seconds after its start in which a member looks who else is there: the first by name creates the
cluster, so that people know who will be its primary."""
TURN_AFTER = 4.0
"""Seconds after its start from which it does not leave that to another."""
CREATE_PATIENCE = 2.0
"""Seconds after its claim before which a member does not finish creating a cluster: a DCS can be
empty because it was emptied, and the members that know better may be about to say so."""


def plan_bootstrap(state: State) -> None:
    """Nobody is in office yet."""
    register = state.register
    if register is None:
        _take_register(state)
    elif register.released:
        _end(state, register)
    elif state.is_primary:
        _create(state, register)
    else:
        name = register.primary.name
        state.why = f"waiting for {name} to create the cluster"
        peer = state.peer(name)
        silent = state.now - max(peer.heard_at, state.started_at, state.register_seen_at)
        if silent > TAKEOVER_AFTER and state.postgres.state is PgState.ABSENT:
            write(state, _claim(state, register.seq))


def _end(state: State, register: Register) -> None:
    """An agent that did not hear of it in time: what it may have started is not Patroni's."""
    state.why = f"{register.why}: this agent ends"
    if state.postgres.state in (PgState.STOPPED, PgState.ABSENT):
        state.exiting = True
        state.out.append(Exit())
    else:
        do(state, Stop(immediate=True), preempt=True)


def _claim(state: State, seq: int) -> Register:
    why = f"{state.me.name} creates the cluster"
    return Register(seq + 1, 0, 0, state.me, (), False, "", (), why)


def _take_register(state: State) -> None:
    if not state.register_absent:
        state.why = f"waiting for the DCS: {state.dcs_why}"
    elif state.postgres.state is PgState.UNKNOWN:
        state.why = "looking at its data directory"
    elif holder := _has_data(state):
        state.why = f"the DCS is empty, but {holder} has the cluster: waiting for it to write again"
    elif state.postgres.state is not PgState.ABSENT or state.durable.stage is not Stage.NONE:
        state.why = (
            "its data directory is not empty but the DCS knows of no such cluster: "
            "point it at the right DCS, or move the data directory away"
        )
    elif first := _whose_turn(state):
        state.why = f"leaving it to {first} to create the cluster"
    else:
        write(state, _claim(state, 0))


def _whose_turn(state: State) -> str:
    """Who is to create the cluster before this member does; empty: it is this member's turn."""
    waited = state.now - state.started_at
    if waited < LOOK_AROUND:
        return "a member that is just starting"
    names = [name for name, peer in state.peers.items() if peer.record is not None]
    first = min(names, default=state.me.name)
    return first if first < state.me.name and waited < TURN_AFTER else ""


def _has_data(state: State) -> str:
    """A member whose copy of the register shows that the cluster exists; empty if none is known."""
    records = (peer.record for peer in state.peers.values())
    return next((r.incarnation.name for r in records if r and r.register and r.register.term), "")


def _create(state: State, register: Register) -> None:
    postgres = state.postgres
    match postgres.state:
        case PgState.ABSENT if holder := _has_data(state):
            state.why = f"not creating a cluster: {holder} has one, and has to write its register"
        case PgState.ABSENT:
            state.why = "creating the cluster: initdb"
            do(state, Initdb())
        case PgState.STOPPED if postgres.disk_timeline:
            state.why = "creating the cluster: first start"
            do(state, Start(1, Rule(state.me, 0, ()), None))
        case PgState.PRIMARY if not state.began:
            # Its first start may not have come to the end: the roles are created by it.
            do(state, Stop(immediate=False))
        case PgState.PRIMARY if holder := _has_data(state):
            state.why = f"not creating a cluster: {holder} has one, and has to write its register"
        case PgState.PRIMARY if state.now - state.register_seen_at < CREATE_PATIENCE:
            state.why = "creating the cluster: a member that has one may be starting"
        case PgState.PRIMARY if postgres.system_id:
            state.durable = replace(state.durable, promoted=1)
            why = f"{state.me.name} created the cluster"
            created = replace(
                register,
                seq=register.seq + 1,
                term=1,
                rules=(Rule(state.me, 0, ()),),
                system_id=postgres.system_id,
                terms=(Term(1, state.me, 0, 0, why, state.epoch),),
                why=why,
            )
            write(state, created)
        case _:
            state.why = "creating the cluster: waiting for its PostgreSQL"
