"""Short plays that lead to where one particular mistake would lose something."""

import dataclasses
from collections.abc import Callable
from typing import Any

from pgregent.core.effects import WriteRegister
from pgregent.core.election import choose, elect, votes
from pgregent.core.events import Switchover
from pgregent.core.types import Stage
from pgregent.core.view import State
from tests.sim.cluster import Cluster
from tests.sim.node import Node


def _cluster(seed: int, *, nodes: int = 3, archiving: bool = False, **settings: Any) -> Cluster:
    """Of these, n1 is primary; clients are busy."""
    cluster = Cluster(seed, nodes, **settings)
    cluster.archiving = archiving
    cluster.pace = 0.1
    cluster.start()
    assert not cluster.settle(30.0)
    cluster.run(4.0)
    return cluster


def _block(cluster: Cluster, kind: str, *pairs: tuple[str, str]) -> None:
    for a, b in pairs:
        cluster.world.net.blocked |= {(kind, a, b), (kind, b, a)}


def _all(cluster: Cluster, names: list[str], know: Callable[[State], bool]) -> Callable[[], bool]:
    def check() -> bool:
        agents = [cluster[name].agent for name in names]
        return all(agent is not None and know(agent.state) for agent in agents)

    return check


def _is_electing(state: State) -> bool:
    return state.register is not None and state.register.electing


def _has_voted(state: State) -> bool:
    return state.vote is not None


def _end(cluster: Cluster) -> str:
    """All go on, and the outcome: empty, or what is wrong."""
    cluster.world.net.blocked.clear()
    for node in cluster.nodes.values():
        node.thaw()
        node.start_agent()
    problem = cluster.settle(60.0)
    if not problem:
        cluster.checker.at_the_end()
    return next(iter(cluster.checker.violations), problem)


def succession_while_the_primary_works(seed: int) -> str:
    """n1's agent is cut off and the others elect, while WAL still flows; the DCS is
    away between the votes and the appointment, and the winner gets no more WAL."""
    cluster = _cluster(seed)
    _block(cluster, "peers", ("n1", "n2"), ("n1", "n3"))
    _block(cluster, "dcs", ("n1", "dcs"))
    dcs = cluster.dcs

    assert dcs.register is not None
    dcs.apply(WriteRegister(dcs.register.seq, elect(dcs.register, "they hear nothing of n1")))
    if not cluster.run(1.0, _all(cluster, ["n2", "n3"], _is_electing)):
        return ""  # One had both votes before the other knew.
    dcs.away = True
    assert cluster.run(1.0, _all(cluster, ["n2", "n3"], _has_voted))
    agent = cluster["n2"].agent
    assert agent is not None and dcs.register is not None
    winner = choose(dcs.register, votes(agent.state, dcs.register))
    _block(cluster, "sql", ("n1", winner.name if winner else "n2"))
    cluster.run(0.3)
    dcs.away = False
    cluster.run(2.0)
    return _end(cluster)


def successor_dies_while_the_old_primary_comes_back(seed: int) -> str:
    """n1's log of term 1 is the longest; the others acknowledged in term 2; then its primary dies,
    and n1 is back in time to vote."""
    cluster = _cluster(seed)
    _block(cluster, "sql", ("n1", "n2"), ("n1", "n3"))
    cluster.run(0.5)
    cluster["n1"].kill()
    cluster.world.net.blocked.clear()
    assert cluster.run(5.0, lambda: 2 in cluster.checker.opened_logs)
    cluster.run(0.02)
    register, other = cluster.dcs.register, "n3" if cluster.primary.name == "n2" else "n2"
    assert register is not None
    cluster.primary.kill()
    cluster["n1"].start_agent()
    cluster.dcs.apply(WriteRegister(register.seq, elect(register, "it is dead")))
    assert cluster.run(1.0, _all(cluster, [other], _is_electing))
    cluster.dcs.away = True
    cluster.run(2.0, _all(cluster, ["n1", other], _has_voted))
    cluster.dcs.away = False
    cluster.run(2.0)
    return _end(cluster)


def return_before_the_barrier(seed: int) -> str:
    """n1 comes back with a log that has diverged while n2 still waits for its barrier."""
    cluster = _cluster(seed, suspect_after=3.0)
    _block(cluster, "sql", ("n1", "n2"), ("n1", "n3"))
    cluster.run(0.3)
    cluster["n1"].kill()
    cluster.world.net.blocked.clear()
    _block(cluster, "sql", ("n2", "n3"))
    cluster.run(3.0, lambda: cluster.dcs.register is not None and cluster.dcs.register.term == 2)
    cluster["n1"].start_agent()
    cluster.run(3.0)
    return _end(cluster)


def handover_to_one_that_is_behind(seed: int) -> str:
    """n2 is in the rule but gets nothing; n3, which alone has what n1 acknowledged last, dies as n1
    leaves."""
    cluster = _cluster(seed)
    _block(cluster, "sql", ("n1", "n2"))
    cluster["n2"].kill_server()
    cluster.run(3.0)
    cluster["n1"].leave()
    cluster["n3"].kill()
    cluster.run(10.0)
    return _end(cluster)


def _forgetful_member(seed: int, forget: Callable[[Cluster], None]) -> str:
    """n3 votes while n1 still works, forgets that, and hears of nothing; n2 is appointed."""
    cluster = _cluster(seed, lease=30.0)
    dcs = cluster.dcs
    _block(cluster, "peers", ("n1", "n2"), ("n1", "n3"))
    _block(cluster, "dcs", ("n1", "dcs"))
    assert dcs.register is not None
    dcs.apply(WriteRegister(dcs.register.seq, elect(dcs.register, "they hear nothing of n1")))
    assert cluster.run(1.0, _all(cluster, ["n2", "n3"], _is_electing))
    dcs.away = True
    assert cluster.run(1.0, _all(cluster, ["n2", "n3"], _has_voted))
    cluster.run(0.1)
    _block(cluster, "peers", ("n2", "n3"))
    _block(cluster, "dcs", ("n3", "dcs"))
    _block(cluster, "sql", ("n1", "n2"), ("n2", "n3"))
    forget(cluster)
    cluster.run(0.3)
    cluster.world.net.blocked -= {("peers", "n1", "n3"), ("peers", "n3", "n1")}
    dcs.away = False
    cluster.run(8.0)
    return _end(cluster)


def voter_dies(seed: int) -> str:
    """The power of a member that has just voted fails."""

    def forget(cluster: Cluster) -> None:
        cluster["n3"].kill()
        cluster["n3"].start_agent()

    return _forgetful_member(seed, forget)


def voter_is_made_anew(seed: int) -> str:
    """A member that has voted loses its disk, and is cloned from the primary that it gave up."""

    def forget(cluster: Cluster) -> None:
        cluster["n3"].lose_data(state_too=True)
        cluster["n3"].store = dataclasses.replace(
            cluster["n3"].store, register=cluster["n1"].store.register
        )
        cluster["n3"].start_agent()

    return _forgetful_member(seed, forget)


def furthest_may_not_succeed(seed: int) -> str:
    """Only n2 has what n1 acknowledged last, and n2 is tagged nofailover."""
    cluster = Cluster(seed, 3)
    cluster.pace = 0.1
    cluster["n2"].settings = dataclasses.replace(cluster["n2"].settings, nofailover=True)
    cluster.start()
    assert not cluster.settle(30.0)
    _block(cluster, "sql", ("n1", "n3"))
    cluster.run(0.5)
    cluster["n1"].kill()
    cluster.world.net.blocked.clear()
    cluster.run(5.0)
    return _end(cluster)


def rewound_member_votes(seed: int) -> str:
    """n3 alone has what n1 acknowledged last; promoted for a term that nobody knows of, it is
    rewound, and n1 dies."""
    cluster = _cluster(seed)
    _block(cluster, "sql", ("n1", "n2"))
    cluster.run(0.5)
    server = cluster["n3"].server
    agent = cluster["n3"].agent
    assert server is not None and agent is not None
    agent.state.durable = dataclasses.replace(agent.state.durable, promoted=2)
    server.by_hand = server.disk.foreign = True
    server.request_promotion()
    cluster.run(30.0, lambda: "rewind" in cluster.checker.ways)
    cluster.run(5.0, lambda: cluster["n3"].store.stage is Stage.REWOUND)
    _block(cluster, "sql", ("n1", "n3"))
    cluster.run(1.0)
    cluster["n1"].kill()
    cluster.run(8.0)
    return _end(cluster)


def names_without_their_rule(seed: int) -> str:
    """n3 comes back to n1's rule while n1 has no DCS; n2 falls behind, and n1 dies."""
    cluster = _cluster(seed, standby_grace=1.0)
    cluster["n3"].kill()
    assert cluster.run(10.0, lambda: _members(cluster) == ["n2"])
    _block(cluster, "dcs", ("n1", "dcs"))
    cluster["n3"].start_agent()
    cluster.run(3.0)
    _block(cluster, "sql", ("n1", "n2"))
    cluster.run(0.5)
    cluster["n1"].kill()
    cluster["n3"].kill()
    cluster.run(5.0)
    return _end(cluster)


def _members(cluster: Cluster) -> list[str]:
    register = cluster.dcs.register
    one = register is not None and len(register.rules) == 1
    return [m.name for m in register.rule.members] if register and one else []


def handover_lands_late(seed: int) -> str:
    """n1's handover to n2 is lost on the way, n1 goes on, with n3 only; then it lands."""
    cluster = _cluster(seed)
    agent = cluster["n1"].agent
    assert agent is not None
    agent.post(Switchover(1, "n2"))
    assert cluster.run(10.0, lambda: cluster["n1"].server is None)
    cluster.dcs.lands_in = 6.0
    assert cluster.run(5.0, lambda: cluster.dcs.lands_in is None)
    cluster["n2"].freeze()
    _block(cluster, "sql", ("n1", "n2"))
    cluster.run(5.5)
    cluster["n2"].thaw()
    cluster.run(5.0)
    return _end(cluster)


def promotion_outlasts_its_term(seed: int) -> str:
    """The winner's promotion takes long, and another election begins meanwhile."""
    cluster = _cluster(seed)
    for name in ("n2", "n3"):
        server = cluster[name].server
        assert server is not None
        server.promotion_takes = (1.0, 1.5)
    cluster["n1"].kill()
    assert cluster.run(5.0, lambda: _is_promoting(cluster))
    register = cluster.dcs.register
    assert register is not None
    cluster.dcs.apply(WriteRegister(register.seq, elect(register, "it takes too long")))
    cluster.run(0.5, _all(cluster, ["n2", "n3"], _is_electing))
    cluster.dcs.away = True
    cluster.run(3.0)
    cluster.dcs.away = False
    return _end(cluster)


def _is_promoting(cluster: Cluster) -> bool:
    return any(n.server is not None and n.server.promoting for n in cluster.nodes.values())


def stale_answer(seed: int) -> str:
    """n1's agent freezes just before an answer of the DCS comes, and is cut off from then on; it
    goes on just before its authority ends."""
    cluster = _cluster(seed)
    agent = cluster["n1"].agent
    assert agent is not None
    _block(cluster, "peers", ("n1", "n2"), ("n1", "n3"))
    assert cluster.run(3.0, lambda: agent.is_reading)
    cluster.run(0.004)
    agent.proc.frozen += 1
    cluster.world.net.blocked.add(("dcs", "n1", "dcs"))
    register = cluster.dcs.register
    assert register is not None
    cluster.dcs.apply(WriteRegister(register.seq, elect(register, "they hear nothing of n1")))
    cluster.run(4.5)
    cluster.world.thaw(agent.proc)
    cluster.run(4.0)
    return _end(cluster)


def follower_past_the_fork(seed: int) -> str:
    """n4 has not voted, and takes more of n1's WAL while it turns to n2; then n2 and n3 die."""
    cluster = _cluster(seed, nodes=4, nodes_wanted_k=2)
    dcs, n4, old = cluster.dcs, cluster["n4"], cluster["n1"].server
    assert dcs.register is not None and old is not None and n4.agent is not None
    _block(cluster, "peers", *(("n1", f"n{n}") for n in (2, 3, 4)), ("n2", "n4"), ("n3", "n4"))
    _block(cluster, "dcs", ("n1", "dcs"), ("n4", "dcs"))
    dcs.apply(WriteRegister(dcs.register.seq, elect(dcs.register, "they hear nothing of n1")))
    assert cluster.run(2.0, _all(cluster, ["n2", "n3"], _is_electing))
    _block(cluster, "sql", ("n1", "n4"))
    assert cluster.run(5.0, lambda: dcs.register is not None and dcs.register.term == 2)
    winner = cluster.primary
    blocked = cluster.world.net.blocked
    blocked -= {way for way in blocked if "n4" in way}
    cluster.run(3.0, lambda: n4.disk.conf.upstream == winner.name)
    for _ in range(300):
        old.append()
    cluster.run(1.0, lambda: _streams_from(n4, winner))
    n4.agent.proc.frozen += 1
    cluster.run(0.6)
    for name in ("n2", "n3"):
        cluster[name].kill()
    cluster.world.thaw(n4.agent.proc)
    cluster.run(5.0)
    return _end(cluster)


def _streams_from(node: Node, upstream: Node) -> bool:
    receiver = node.server.receiver if node.server is not None else None
    return receiver is not None and receiver.upstream is upstream.server


def sealed_beside_the_archive(seed: int) -> str:
    """Votes are cast while n1 still writes, and its WAL is in the archive."""
    cluster = _cluster(seed, archiving=True)
    dcs = cluster.dcs
    _block(cluster, "peers", ("n1", "n2"), ("n1", "n3"))
    _block(cluster, "dcs", ("n1", "dcs"))
    assert dcs.register is not None
    dcs.apply(WriteRegister(dcs.register.seq, elect(dcs.register, "they hear nothing of n1")))
    assert cluster.run(1.0, _all(cluster, ["n2", "n3"], _is_electing))
    dcs.away = True
    cluster.run(2.0)
    dcs.away = False
    return _end(cluster)
