"""Sentences for people: what holds now, who could succeed, what if a node died now."""

from pgregent.core.durability import satisfies_all
from pgregent.core.types import Incarnation, PgState, Record
from pgregent.core.view import State


def all_records(state: State, own: Record) -> dict[str, Record]:
    """Every member's latest record, one's own included."""
    found = {n: p.record for n, p in state.peers.items() if p.record is not None}
    found[own.incarnation.name] = own
    return found


def _alive(state: State, own: Record) -> dict[Incarnation, Record]:
    names = [n for n in state.peers if state.heard_lately(n, within=2.0) is not None]
    records = [own, *(r for n in names if (r := state.peers[n].record) is not None)]
    running = (PgState.STANDBY, PgState.PRIMARY)
    return {r.incarnation: r for r in records if r.state in running and not r.leaving}


def successors(state: State, own: Record, without: frozenset[str]) -> list[str]:
    """Who could be appointed if the primary and `without` died now."""
    register = state.register
    if register is None or register.term == 0 or not state.dcs_ok or state.settings.paused:
        return []
    alive = {
        m: r
        for m, r in _alive(state, own).items()
        if m != register.primary and m.name not in without
    }
    if not satisfies_all(register, frozenset(alive)):
        return []
    return sorted(m.name for m, r in alive.items() if r.eligible)


def succession(state: State, own: Record) -> str:
    """Who could succeed the primary now, or why nobody could."""
    register = state.register
    if register is None or register.term == 0:
        return "there is no primary yet"
    able = successors(state, own, frozenset())
    if able:
        return f"if {register.primary.name} died now, {' or '.join(able)} would succeed"
    if state.settings.paused:
        return f"nobody would succeed {register.primary.name}: the cluster is paused"
    if not state.dcs_ok:
        return f"nobody could succeed {register.primary.name}: the DCS does not answer"
    if register.rule.k == 0:
        return f"nobody could succeed {register.primary.name}: no standby has all commits"
    need = f"{len(register.rule.members) - register.rule.k + 1} of "
    need += ", ".join(m.name for m in register.rule.members)
    return f"nobody could succeed {register.primary.name}: that takes {need} (eligible, running)"


def if_dies(state: State, own: Record) -> dict[str, str]:
    """For each member, what would happen if its node died now."""
    register = state.register
    found: dict[str, str] = {}
    for name in sorted(all_records(state, own)):
        if register is None or register.term == 0:
            found[name] = "there is no primary yet"
        elif name == register.primary.name:
            able = successors(state, own, frozenset())
            found[name] = (
                f"{' or '.join(able)} would take over, nothing acknowledged is lost"
                if able
                else "writes would stop until it is back: " + succession(state, own)
            )
        elif any(m.name == name for m in register.rule.members):
            left = len(register.rule.members) - 1
            found[name] = (
                "writes go on without a pause"
                if left >= register.rule.k
                else "writes would wait until the rule is changed to do without it"
                if state.dcs_ok
                else "writes would wait until it or the DCS is back"
            )
        else:
            found[name] = "writes go on: no commit waits for it"
    return found


def cluster_why(state: State, own: Record) -> str:
    """One sentence on the cluster as a whole."""
    register = state.register
    if register is None or register.term == 0:
        return state.why
    if register.electing:
        return f"an election is under way (round {register.round}): {register.why}"
    record = all_records(state, own).get(register.primary.name)
    if record is not None and record.serving:
        rule = register.rule
        return f"{rule.writer.name} is primary of term {register.term}; commits wait for {rule}"
    said = record.why if record is not None else "nothing was heard of it"
    return f"{register.primary.name} holds term {register.term} but does not serve yet: {said}"
