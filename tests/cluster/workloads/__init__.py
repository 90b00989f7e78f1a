"""Clients that put a cluster to work and judge what became of it."""

from collections.abc import Mapping

from tests.cluster.workloads.appends import Appends
from tests.cluster.workloads.bank import Bank
from tests.cluster.workloads.inserts import Inserts
from tests.cluster.workloads.registers import Registers
from tests.cluster.workloads.session import Connect
from tests.cluster.workloads.workload import Workload

WORKLOADS: Mapping[str, type[Workload]] = {
    "inserts": Inserts,
    "registers": Registers,
    "bank": Bank,
    "appends": Appends,
}

__all__ = ["WORKLOADS", "Connect", "Workload"]
