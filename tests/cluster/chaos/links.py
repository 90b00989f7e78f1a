"""Nemeses of the network: partitions of every shape, packet loss, latency."""

import random

from tests.cluster.chaos.cluster import CLIENT, ChaosCluster
from tests.cluster.chaos.nemesis import DCS_START_S, Nemesis

LOSS_PERCENT = 30
LATENCY_S = 0.1
"""In each direction: 200 ms there and back."""


class Partition(Nemesis):
    """Some hosts do not hear some others."""

    def __init__(self, cluster: ChaosCluster, rng: random.Random, primary: str) -> None:
        super().__init__(cluster, rng, primary)
        self.undo.callback(cluster.net.mend)

    def split(self, one: list[str], other: list[str]) -> None:
        self.told = f"{self.name}: {', '.join(one)} from {', '.join(other)}"
        self.cluster.net.split(one, other)


class PrimaryIsolated(Partition):
    """The primary hears nobody, its clients perhaps."""

    name = "primary-isolated"

    def strike(self) -> None:
        clients = [CLIENT] if self.rng.random() < 0.5 else []
        self.split([self.primary], [*self.standbys(), *self.cluster.dcs_servers, *clients])


class PrimaryWithMinority(Partition):
    """The primary and less than half of the other hosts; clients hear both sides."""

    name = "primary-with-minority"

    def strike(self) -> None:
        others, servers = self.standbys(), [*self.cluster.dcs_servers]
        self.rng.shuffle(others)
        self.rng.shuffle(servers)
        with_it = (len(others) - 1) // 2
        servers_with_it = (len(servers) - 1) // 2
        self.split(
            [self.primary, *others[:with_it], *servers[:servers_with_it]],
            [*others[with_it:], *servers[servers_with_it:]],
        )


class Ring(Partition):
    """Each host hears its neighbours in a ring of nodes and DCS servers, and nobody else."""

    name = "ring"
    allowance_s = DCS_START_S
    """The DCS may have no leader meanwhile."""

    def strike(self) -> None:
        hosts = [*self.cluster.names, *self.cluster.dcs_servers]
        self.rng.shuffle(hosts)
        self.told = f"{self.name}: {' '.join(hosts)}"
        count = len(hosts)
        for place, host in enumerate(hosts):
            near = {hosts[place - 1], host, hosts[(place + 1) % count]}
            self.cluster.net.split([host], [other for other in hosts if other not in near])


class OneWay(Partition):
    """The primary hears all and is heard by nobody, or the other way round."""

    name = "one-way"

    def strike(self) -> None:
        others = [*self.standbys(), *self.cluster.dcs_servers]
        deaf = self.rng.random() < 0.5
        self.told = f"{self.name}: {self.primary} {'hears' if deaf else 'is heard by'} nobody"
        for other in others:
            sender, receiver = (other, self.primary) if deaf else (self.primary, other)
            self.cluster.net.cut(sender, receiver)


class DcsFromPrimary(Partition):
    """Only the primary does not reach the DCS."""

    name = "dcs-from-primary"

    def strike(self) -> None:
        self.split([self.primary], self.cluster.dcs_servers)


class StandbysFromPrimary(Partition):
    """The primary reaches the DCS and its clients, and no standby."""

    name = "standbys-from-primary"

    def strike(self) -> None:
        self.split([self.primary], self.standbys())


class PacketLoss(Partition):
    """30 % of all packets to and from a node are lost."""

    name = "packet-loss"

    def strike(self) -> None:
        victim = self.victim()
        self.told = f"{self.name}: {LOSS_PERCENT} % of {victim}'s"
        self.cluster.net.lose(victim, LOSS_PERCENT)


class Latency(Nemesis):
    """All packets of a node come 100 ms late, in both directions."""

    name = "latency"

    def strike(self) -> None:
        victim = self.victim()
        self.told = f"{self.name}: {2 * LATENCY_S * 1000:.0f} ms there and back to {victim}"
        self.undo.enter_context(self.cluster.net.delayed(victim, LATENCY_S))


LINKS: list[type[Nemesis]] = [
    PrimaryIsolated,
    PrimaryWithMinority,
    Ring,
    OneWay,
    DcsFromPrimary,
    StandbysFromPrimary,
    PacketLoss,
    Latency,
]
