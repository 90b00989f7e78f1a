"""A restart that the operator asked for: a short shutdown, and the same server again.

A primary stays primary. That is confirmed in the DCS before it starts, as after any stop, so a
restart that takes long may find that another member has succeeded it.
"""

from pgregent.core.effects import Checkpoint, Clone, Rewind, Stop
from pgregent.core.plan import do
from pgregent.core.switchover import dcs_is_away
from pgregent.core.types import PgState, Register, Stage
from pgregent.core.view import Leaving, Restarting, State

STOP_LIMIT = 3.0
"""Seconds after which a shutdown is cut short: what was checkpointed just now recovers soon."""
_CAN = (PgState.PRIMARY, PgState.STANDBY, PgState.STOPPED)


def restart_refusal(state: State) -> str:
    """Why this member does not restart its PostgreSQL now; empty if it does."""
    register = state.register
    if register is None or register.term == 0:
        return "there is no cluster yet"
    if state.leaving is not Leaving.NO:
        return "it is leaving"
    if state.restarting is not Restarting.NO:
        return "a restart is under way already"
    if state.switchover is not None or state.reinitializing:
        return f"not now: {state.why}"
    if register.electing:
        return f"an election is under way: {register.why}"
    unusable = state.durable.stage is not Stage.NONE or isinstance(state.pg, Clone | Rewind)
    if unusable or state.postgres.state not in _CAN:
        return f"not now: {state.why}"
    if state.is_primary and state.running and not state.opened:
        return f"not now: {state.why}"
    return dcs_is_away(state) if state.is_primary else ""


def begin_restart(state: State) -> None:
    """Begin it, or say why not."""
    if refusal := restart_refusal(state):
        state.announce("refused", f"restart: {refusal}")
        return
    state.announce("restart", "the operator asks for a restart of its PostgreSQL")
    state.checkpointed, state.suspicion = False, None
    state.restarting, state.restart_stops_at = Restarting.STOPPING, float("inf")
    if not state.running:
        state.restarting, state.may_start = Restarting.STARTING, True


def plan_restart(state: State, register: Register) -> bool:
    """The stop; False while the member goes on as it does anyway: before it, and when it starts
    again what is stopped."""
    if register.electing:
        end_restart(state, "an election has begun")
        return False
    if state.restarting is Restarting.STARTING:
        return False
    if why := _why_not_to_stop(state):
        end_restart(state, why)
        return False
    if state.running and not state.checkpointed:
        # So that the shutdown is short. It may take long itself: the office goes on meanwhile.
        do(state, Checkpoint())
    elif state.running or isinstance(state.pg, Stop):
        _stop(state)
        return True
    elif not isinstance(state.pg, Checkpoint):
        end_restart(state, state.why)
    return False


def _stop(state: State) -> None:
    """PostgreSQL waits until a standby has the last of its WAL, and until all is archived."""
    state.restart_stops_at = min(state.restart_stops_at, state.now)
    late = state.now - state.restart_stops_at > STOP_LIMIT
    state.why = "restarting: stopping PostgreSQL" + (", which takes long: at once" if late else "")
    state.holding = True
    do(state, Stop(immediate=late), preempt=True)


def _why_not_to_stop(state: State) -> str:
    """Why a primary is not stopped after all, though the checkpoint may be done; empty if it is."""
    if not state.is_primary or isinstance(state.pg, Stop):
        return ""
    return dcs_is_away(state) if state.opened else "it was appointed primary"


def end_restart(state: State, why: str) -> None:
    """Give it up, if there is one: what happened instead counts."""
    if state.restarting is not Restarting.NO:
        state.announce("refused", f"restart: given up: {why}")
        state.restarting, state.holding = Restarting.NO, False
