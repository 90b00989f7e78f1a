"""What can go wrong with processes, disks, clocks, the network and the DCS.

Each fault says whether it struck anything. A schedule draws some of them (swarm testing).
"""

import itertools
from collections.abc import Callable
from dataclasses import replace

from pgregent.core.types import PgState
from tests.sim.chaos import Chaos
from tests.sim.node import Node

Fault = Callable[[Chaos], bool]

FAULTS: dict[str, Fault] = {}
"""By name; operators.py adds what people do."""

AMBIENT: dict[str, tuple[float, ...]] = {
    "a message comes twice": (0.02, 0.2),
    "a promotion is slow": (0.1, 0.5),
    "a rewind fails in the middle": (0.1, 0.5),
}
"""What strikes by itself wherever it can, and its probabilities to choose from."""

COUNTED = (
    *AMBIENT,
    "a CAS fails",
    "a CAS is unknown",
    "a CAS is late",
    "a data directory is emptied",
    "a message is lost",
    "a message is overtaken",
    "an agent crashes between a decision and its disk",
    "an answer is lost",
    "an effect fails",
    "replication lags",
    "slow disk",
)
"""What is counted where it strikes."""


def fault(name: str) -> Callable[[Fault], Fault]:
    """Register a fault under its name."""

    def register(fn: Fault) -> Fault:
        FAULTS[name] = fn
        return fn

    return register


# --- processes -----------------------------------------------------------------------------------


@fault("kill agent")
def kill_agent(chaos: Chaos) -> bool:
    node = chaos.node()
    struck = node.agent is not None
    node.kill_agent()
    chaos.come_back(node, chaos.longest)
    return struck


@fault("kill server")
def kill_server(chaos: Chaos) -> bool:
    return chaos.node().kill_server()


@fault("kill guard")
def kill_guard(chaos: Chaos) -> bool:
    """Alone, or just before the agent, so that the server has nobody for a while."""
    node = chaos.node()
    struck = node.kill_guard()
    if struck and chaos.random.random() < 0.2:
        node.kill_agent()
        chaos.come_back(node, 3.0)
    return struck


def _kill(chaos: Chaos, node: Node) -> bool:
    struck = node.guard is not None
    node.kill(silently=chaos.random.random() < 0.3)
    chaos.come_back(node, chaos.longest)
    return struck


@fault("kill node")
def kill_node(chaos: Chaos) -> bool:
    return _kill(chaos, chaos.node())


@fault("kill primary's node")
def kill_primary(chaos: Chaos) -> bool:
    register = chaos.register
    return _kill(chaos, chaos.cluster[register.primary.name] if register else chaos.node())


@fault("kill two nodes")
def kill_two(chaos: Chaos) -> bool:
    second = chaos.node()
    chaos.world.call(chaos.random.uniform(0.0, 1.0), None, _kill, chaos, second)
    return _kill(chaos, chaos.node())


@fault("freeze node")
def freeze_node(chaos: Chaos) -> bool:
    """As a suspended machine: CLOCK_BOOTTIME goes on."""
    node = chaos.node()
    struck = node.agent is not None and not node.frozen
    node.freeze()
    chaos.later(node.thaw)
    return struck


@fault("freeze agent")
def freeze_agent(chaos: Chaos) -> bool:
    agent = chaos.node().agent
    if agent is None:
        return False
    agent.proc.frozen += 1
    agent.node.say("agent freezes")
    chaos.later(lambda: chaos.world.thaw(agent.proc))
    return True


@fault("stop postmaster")
def hang_server(chaos: Chaos) -> bool:
    """SIGSTOP: its sessions go on, a new one gets no answer."""
    server = chaos.node().server
    if server is None:
        return False
    server.node.say("postgres takes no new connections")
    server.hung = True
    chaos.later(lambda: setattr(server, "hung", False))
    return True


@fault("pause replay")
def pause_replay(chaos: Chaos) -> bool:
    node = chaos.node()
    node.pause_replay(True)
    chaos.later(lambda: node.pause_replay(False))
    return node.server is not None and node.server.state is PgState.STANDBY


@fault("long reader on a standby")
def long_reader(chaos: Chaos) -> bool:
    server = chaos.standby().server
    if server is None or server.state is not PgState.STANDBY:
        return False
    server.node.say("a long reader holds replay back")
    server.blocked = True
    chaos.later(server.end_readers)
    return True


@fault("cancel a commit")
def cancel_commit(chaos: Chaos) -> bool:
    """A client cancels the wait for a standby: the commit stands, though nobody was promised it."""
    server = chaos.node().server
    return server is not None and server.cancel_one()


# --- disks and clocks ----------------------------------------------------------------------------


@fault("slow disk")
def slow_disk(chaos: Chaos) -> bool:
    """Counted where a step of the core has waited for it."""
    node = chaos.node()
    node.say("its disk is slow")
    node.slow_disk = True
    chaos.later(lambda: setattr(node, "slow_disk", False))
    return False


@fault("lose the data directory")
def lose_data(chaos: Chaos) -> bool:
    """Only where the rules tolerate it: every other log that they name is there."""
    node, register = chaos.node(), chaos.cluster.checker.forgotten or chaos.register
    if register is None or not register.rules or register.rule.k == 0:
        return False
    named = {m for r in register.rules for m in (r.writer, *r.members)}
    whole = {n.store.incarnation for n in chaos.nodes() if chaos.whole(n)}
    if not named <= whole or len(register.rules) != 1:
        return False
    if chaos.cluster.dcs.in_flight or (node.agent and node.agent.state.vote):
        # It may be being appointed: then nobody can be without its log.
        return False
    if node.name == register.primary.name:
        # Else it could still make the rule weaker: then this is more than the rule tolerates.
        node.kill()
    node.lose_data(state_too=chaos.random.random() < 0.3)
    chaos.come_back(node, 3.0)
    return True


@fault("wall clock jumps")
def jump_clock(chaos: Chaos) -> bool:
    node = chaos.node()
    node.wall_offset += chaos.random.choice((-1000.0, -10.0, 10.0, 1000.0))
    node.say(f"its wall clock is {node.wall_offset:+.0f} s off")
    return True


# --- the network ---------------------------------------------------------------------------------


@fault("isolate node")
def isolate(chaos: Chaos) -> bool:
    """Cut one node off: from the others, from the DCS, one way or both, or in part."""
    node = chaos.node().name
    kinds = chaos.random.choice((("peers", "sql", "dcs"), ("peers", "sql"), ("peers",), ("sql",)))
    inward, outward = chaos.random.choice(((1, 1), (1, 1), (1, 0), (0, 1)))
    ways: set[tuple[str, str, str]] = set()
    for kind in kinds:
        others = ["dcs"] if kind == "dcs" else [n for n in chaos.cluster.nodes if n != node]
        if kind == "peers" and chaos.random.random() < 0.5:
            others.append("gate")
        ways |= {(kind, node, o) for o in others if outward}
        ways |= {(kind, o, node) for o in others if inward}
    chaos.block(ways)
    return bool(ways)


@fault("mute agent")
def mute(chaos: Chaos) -> bool:
    """The others hear nothing of its agent, but it reaches the DCS, and WAL flows."""
    node = chaos.node().name
    ways = {("peers", node, o) for o in chaos.cluster.nodes if o != node}
    chaos.block(ways)
    return bool(ways)


@fault("cut replication")
def cut_replication(chaos: Chaos) -> bool:
    """A standby gets nothing while the others do."""
    register, b = chaos.register, chaos.node().name
    a = register.primary.name if register else b
    if a != b:
        chaos.block({("sql", a, b), ("sql", b, a)})
    return a != b


@fault("cut a pair")
def cut_pair(chaos: Chaos) -> bool:
    a, b = chaos.node().name, chaos.node().name
    kinds = chaos.random.choice((("peers", "sql"), ("peers",), ("sql",)))
    if a != b:
        chaos.block({(k, *w) for k in kinds for w in ((a, b), (b, a))})
    return a != b


@fault("ring")
def ring(chaos: Chaos) -> bool:
    """Each node reaches only its neighbours; of three, one reaches both others."""
    names = [*chaos.cluster.nodes]
    if len(names) < 3:
        return False
    chaos.random.shuffle(names)
    near = {*itertools.pairwise(names)}
    if len(names) > 3:
        near.add((names[-1], names[0]))
    far = {(a, b) for a in names for b in names if a != b} - near - {(b, a) for a, b in near}
    chaos.block({(k, *w) for k in ("peers", "sql") for w in far})
    return True


# --- the DCS -------------------------------------------------------------------------------------


@fault("cut the DCS")
def cut_dcs(chaos: Chaos) -> bool:
    node = chaos.node().name
    way = chaos.random.choice(((node, "dcs"), ("dcs", node)))
    chaos.block({("dcs", *way)})
    return True


@fault("DCS away")
def dcs_away(chaos: Chaos) -> bool:
    chaos.world.say("*", "the DCS is away")
    chaos.cluster.dcs.away = True
    chaos.later(lambda: setattr(chaos.cluster.dcs, "away", False))
    return True


@fault("DCS slow")
def dcs_slow(chaos: Chaos) -> bool:
    """For all, or for one member."""
    dcs, slow = chaos.cluster.dcs, chaos.random.choice((0.2, 1.0, 3.0))
    members = [*chaos.cluster.nodes] if chaos.random.random() < 0.5 else [chaos.node().name]
    chaos.world.say("*", f"the DCS is slow for {', '.join(members)}")
    dcs.slow.update(dict.fromkeys(members, slow))
    chaos.later(lambda: [dcs.slow.pop(member, None) for member in members])
    return True


@fault("DCS emptied")
def dcs_forgets(chaos: Chaos) -> bool:
    register = chaos.register
    if register is None or not register.term:
        return False
    chaos.world.say("*", "the DCS is emptied")
    chaos.cluster.dcs.forget()
    return True


@fault("DCS set back")
def dcs_set_back(chaos: Chaos) -> bool:
    """To what every member that knows the cluster has seen more than: only then nobody can take it
    for the newest, and nothing more is promised of a backup that was put back."""
    dcs = chaos.cluster.dcs
    known = [n.store.register.seq for n in chaos.nodes() if n.store.register is not None]
    old = [r for r in dcs.past if r.term and r.seq < min(known, default=0)]
    if chaos.register is None or not chaos.register.term or not old:
        return False
    shown = chaos.random.choice(old)
    chaos.world.say("*", f"the DCS is set back to seq {shown.seq}")
    dcs.forget(shown)
    return True


@fault("another cluster's DCS")
def mislead(chaos: Chaos) -> bool:
    """A member that has its own cluster's register is shown that of another one."""
    node, dcs = chaos.node(), chaos.cluster.dcs
    known = node.store.register
    if known is None or not known.system_id or not known.term:
        return False
    seq = known.seq + chaos.random.choice((0, 0, 1, 5, 1000))
    node.say(f"is pointed at the DCS of another cluster (seq {seq})")
    dcs.misled[node.name] = replace(known, seq=seq, system_id="another")
    chaos.later(lambda: dcs.misled.pop(node.name, None))
    return True
