"""What is going on, for counting when faults strike."""

from pgregent.core.effects import Promote, Seal
from pgregent.core.types import PgState, Register
from pgregent.core.view import Leaving, State
from tests.sim.cluster import Cluster

PHASES = (
    "creation",
    "suspicion",
    "pre-vote",
    "start of an election",
    "seal",
    "vote",
    "appointment",
    "promotion",
    "barrier",
    "drop of older rules",
    "opening",
    "taking back the office",
    "change of the rule",
    "handover",
    "amnesia",
    "office",
)
"""All that can be going on: steps of an election first to last, then the others."""


def phases_of(cluster: Cluster) -> set[str]:
    """What is going on now; "office" if nothing is."""
    register = cluster.dcs.register
    if cluster.checker.forgotten is not None:
        return {"amnesia"}
    if register is None or register.term == 0:
        return {"creation"}
    found: set[str] = set()
    suspects = 0
    for node in cluster.nodes.values():
        if node.agent is not None:
            suspects += node.agent.state.suspicion is not None
            _of_member(node.agent.state, register, found)
    if suspects:
        found.add("suspicion" if suspects == 1 else "pre-vote")
    return found or {"office"}


def _of_member(state: State, register: Register, found: set[str]) -> None:
    if isinstance(state.pg, Seal):
        found.add("seal")
    elif isinstance(state.pg, Promote):
        found.add("promotion")
    if state.barrier is not None:
        found.add("barrier")
    if register.electing and state.vote is not None and state.vote.round == register.round:
        found.add("vote")
    if state.is_primary:
        if state.switchover is not None or state.leaving is Leaving.NODE:
            found.add("handover")
        elif not state.opened and state.postgres.state is PgState.PRIMARY:
            found.add("opening")
    if state.cas is not None:
        found.add(_of_write(register, state.cas.register))


def _of_write(old: Register, new: Register) -> str:
    """What a CAS that is under way is for."""
    if new.electing:
        return "start of an election"
    if new.term > old.term:
        return "appointment" if old.electing else "handover"
    if old.electing:
        return "taking back the office"
    return "drop of older rules" if len(new.rules) < len(old.rules) else "change of the rule"
