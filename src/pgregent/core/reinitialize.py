"""A standby's data directory made anew because the operator asks for it."""

from pgregent.core.effects import Clone, Rewind, Stop
from pgregent.core.plan import do
from pgregent.core.restart import end_restart
from pgregent.core.standby import can_be_spared, primary_serves
from pgregent.core.switchover import still_counted
from pgregent.core.types import PgState, Register
from pgregent.core.view import Leaving, Restarting, State


def reinitialize_refusal(state: State) -> str:
    """Why this member does not have its data directory made anew; empty if it does."""
    register = state.register
    if register is None or register.term == 0:
        return "there is no cluster yet"
    if state.is_primary:
        return f"{state.me.name} is the primary: the others are made from what it has"
    if state.leaving is not Leaving.NO:
        return "it is leaving"
    if state.is_strangers:
        return "its data directory is another cluster's: move it away, or correct data_dir"
    if state.reinitializing or isinstance(state.pg, Clone | Rewind):
        return "it is being made anew already"
    if state.restarting is Restarting.STOPPING:
        return "its PostgreSQL is being restarted"
    return _not_now(state, register)


def _not_now(state: State, register: Register) -> str:
    if register.electing:
        return f"an election is under way: {register.why}"
    if not primary_serves(state, register):
        return f"{register.primary.name} does not serve now, and the copy is made from it"
    if not can_be_spared(state, register):
        return "commits or an election may depend on what it has: wait for the primary and the DCS"
    return ""


def begin_reinitialize(state: State) -> None:
    """Begin it, or say why not."""
    if refusal := reinitialize_refusal(state):
        state.announce("refused", f"reinitialize: {refusal}")
        return
    # A restart may still be waiting to start what is made anew now.
    end_restart(state, "its data directory is made anew")
    state.reinitializing, state.reinitialize_since = True, state.now
    state.announce("reinitialize", "the operator asks for a new copy of the primary")


def plan_reinitialize(state: State, register: Register) -> bool:
    """The stop; False once it is over. What it has counts until the copy begins: an election, or an
    agent that dies, finds a standby that was stopped."""
    if why := "it was appointed primary" if state.is_primary else _not_now(state, register):
        state.announce("refused", f"reinitialize: given up: {why}")
        state.reinitializing = False
        return False
    if still_counted(state, register, state.reinitialize_since):
        state.why = "to be made anew: waiting for the primary to take it out of the rule"
        return True
    state.may_start = True
    if state.postgres.state in (PgState.STOPPED, PgState.ABSENT):
        return False
    state.why = "to be made anew: stopping PostgreSQL"
    do(state, Stop(immediate=False), preempt=True)
    return True
