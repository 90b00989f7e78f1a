"""Short plays that lead to where one particular mistake would lose something."""

from collections.abc import Callable
from typing import Any

from pgregent.core.effects import WriteRegister
from pgregent.core.election import choose, elect, votes
from pgregent.core.view import State
from tests.sim.cluster import Cluster


def _cluster(seed: int, **settings: Any) -> Cluster:
    """Of three, n1 is primary; clients are busy."""
    cluster = Cluster(seed, 3, **settings)
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
    assert cluster.run(1.0, _all(cluster, ["n2", "n3"], _is_electing))
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
