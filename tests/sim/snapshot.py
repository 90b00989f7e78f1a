"""A cluster that was up before: as the machines are found when the power is back."""

import copy
from dataclasses import dataclass, replace
from functools import cache

from pgregent.core.types import Durable, Record, Register
from tests.sim.cluster import Cluster
from tests.sim.fake_postgres import Disk
from tests.sim.invariants import Checker


@dataclass(frozen=True)
class Snapshot:
    """What outlasts a power cut."""

    at: float
    register: Register
    members: dict[str, Record]
    disks: dict[str, Disk]
    stores: dict[str, Durable]
    checker: Checker


@cache
def taken(nodes: int, wanted_k: int, minimum_k: int) -> Snapshot:
    """Make a cluster, without clients, and cut the power. The same in every process."""
    given = {"nodes_wanted_k": wanted_k, "minimum_k": minimum_k}
    cluster = Cluster(f"snapshot of {nodes}", nodes, **given)
    cluster.start(clients=False)
    problem = cluster.settle()
    assert not problem and cluster.dcs.register is not None, problem
    found = cluster.nodes.items()
    return Snapshot(
        cluster.world.now,
        cluster.dcs.register,
        cluster.dcs.members,
        {name: node.disk for name, node in found},
        {name: node.store for name, node in found},
        cluster.checker,
    )


def _copied(disk: Disk) -> Disk:
    """Records are shared: they never change, and logs are compared by them."""
    copied = replace(disk, log=[*disk.log], histories={**disk.histories}, slots={*disk.slots})
    copied.conf = replace(disk.conf)
    return copied


def restore(cluster: Cluster) -> None:
    """Put such a cluster's disks, promises and register into this one, which was not started."""
    settings = next(iter(cluster.nodes.values())).settings
    snapshot = taken(len(cluster.nodes), settings.nodes_wanted_k, settings.minimum_k)
    cluster.world.now = snapshot.at
    cluster.dcs.register, cluster.dcs.members = snapshot.register, {**snapshot.members}
    for name, node in cluster.nodes.items():
        node.disk, node.store = _copied(snapshot.disks[name]), snapshot.stores[name]
    keep = ("world", "nodes")
    seen = {k: copy.copy(v) for k, v in vars(snapshot.checker).items() if k not in keep}
    vars(cluster.checker).update(seen)
