"""Short plays that lead to where one particular mistake would lose something; else they end well."""

from tests.sim.cluster import Cluster

from pgregent.core.effects import WriteRegister
from pgregent.core.election import elect


def _cluster(seed: int, nodes: int = 3) -> Cluster:
    """n1 is primary, clients are busy."""
    cluster = Cluster(seed, nodes)
    cluster.pace = 0.1
    cluster.start()
    assert not cluster.settle(30.0)
    cluster.run(4.0)
    return cluster


def _block(cluster: Cluster, kind: str, *pairs: tuple[str, str]) -> None:
    for a, b in pairs:
        cluster.world.net.blocked |= {(kind, a, b), (kind, b, a)}


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
    """The others hear nothing of n1's agent any more, and elect, while WAL still flows."""
    cluster = _cluster(seed)
    _block(cluster, "peers", ("n1", "n2"), ("n1", "n3"))
    cluster.run(3.0)
    return _end(cluster)


def successor_dies_while_the_old_primary_comes_back(seed: int) -> str:
    """n1's log of term 1 is the longest; n2 and n3 acknowledged in term 2; then n2 dies."""
    cluster = _cluster(seed)
    _block(cluster, "sql", ("n1", "n2"), ("n1", "n3"))
    cluster.run(0.5)
    cluster["n1"].kill()
    cluster.world.net.blocked.clear()
    cluster.run(3.0, lambda: 2 in cluster.checker.opened_logs)
    cluster.run(0.1)
    cluster["n2"].freeze()
    cluster["n1"].start_agent()
    cluster.run(1.0)
    cluster["n2"].kill()
    cluster.run(2.0)
    return _end(cluster)


def election_while_a_promotion_is_pending(seed: int) -> str:
    """n2 has asked for its promotion to term 2 when another election begins; n1 has the longer log."""
    cluster = _cluster(seed, 2)
    _block(cluster, "sql", ("n1", "n2"))
    cluster.run(0.1)
    cluster["n1"].kill()
    cluster.world.net.blocked.clear()

    def asked() -> bool:
        server = cluster["n2"].server
        return server is not None and server.promoting

    assert cluster.run(5.0, asked)
    register = cluster.dcs.register
    assert register is not None
    cluster.dcs.apply(WriteRegister(register.seq, elect(register, "once more")))
    cluster["n1"].start_agent()
    cluster.run(3.0)
    return _end(cluster)


def return_before_the_barrier(seed: int) -> str:
    """n1 comes back with a log that has diverged while n2 still waits for its barrier."""
    cluster = _cluster(seed)
    _block(cluster, "sql", ("n1", "n2"), ("n1", "n3"))
    cluster.run(0.3)
    cluster["n1"].kill()
    cluster.world.net.blocked.clear()
    _block(cluster, "sql", ("n2", "n3"))
    cluster["n1"].start_agent()
    cluster.run(3.0)
    return _end(cluster)


def handover_to_one_that_is_behind(seed: int) -> str:
    """n2 is in the rule but gets nothing; only n3 has what n1 acknowledged last; n1 leaves."""
    cluster = _cluster(seed)
    _block(cluster, "sql", ("n1", "n2"))
    cluster["n2"].kill_server()
    cluster.run(1.0)
    cluster["n1"].leave()
    cluster.run(10.0)
    return _end(cluster)
