"""What a nemesis is, and the ones that signal processes."""

import random
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from tests.cluster.chaos.cluster import ChaosCluster
from tests.cluster.processes import alive, send, wait_for

AGENT_START_S = 5.0
"""What was killed is no fault any more when it runs again: half a second until it is started, then
Python, and crash recovery."""

DCS_START_S = 6.0
"""A DCS server starts, three elect their leader, and agents connect again."""


class Nemesis(ABC):
    """One fault. `strike` does it and asserts that it was done; `heal` undoes what was done."""

    name: ClassVar[str]
    allowance_s: ClassVar[float] = 0.0
    """How much later than 2 s after healing writes may be acknowledged again, and for what: what
    was killed has to start, and a server that starts recovers."""

    def __init__(self, cluster: ChaosCluster, rng: random.Random, primary: str) -> None:
        self.cluster = cluster
        self.rng = rng
        self.primary = primary
        self.told = self.name
        """What it did, in a few words."""
        self.undo = ExitStack()
        """What strike() leaves to be undone."""

    @abstractmethod
    def strike(self) -> None: ...

    def heal(self) -> None:
        """Undo it; everything is tried, also where something fails."""
        self.undo.close()

    def standbys(self) -> list[str]:
        """Return the members that were not the primary."""
        return [name for name in self.cluster.names if name != self.primary]

    def victim(self) -> str:
        """Return a member: the primary more often than not."""
        return self.primary if self.rng.random() < 0.7 else self.rng.choice(self.standbys())


Pids = Callable[[ChaosCluster, str], set[int]]


def _agent(cluster: ChaosCluster, name: str) -> set[int]:
    return {pid} if (pid := cluster.node(name).agent) else set()


def _guard(cluster: ChaosCluster, name: str) -> set[int]:
    return {pid} if (pid := cluster.node(name).guard) else set()


def _postmaster(cluster: ChaosCluster, name: str) -> set[int]:
    return {pid} if (pid := cluster.node(name).postmaster) else set()


def _postgres(cluster: ChaosCluster, name: str) -> set[int]:
    return cluster.postgres_processes(name) | _postmaster(cluster, name)


def _node(cluster: ChaosCluster, name: str) -> set[int]:
    return cluster.all_processes_of(name)


PROCESSES: dict[str, Pids] = {
    "agent": _agent,
    "guard": _guard,
    "postmaster": _postmaster,
    "postgres": _postgres,
    "node": _node,
}


class _Signal(Nemesis):
    what: ClassVar[str]

    def choose(self) -> tuple[str, set[int]]:
        """Return a member that has such processes, and them."""
        others = self.rng.sample(self.cluster.names, len(self.cluster.names))
        for victim in (self.victim(), *others):
            if pids := PROCESSES[self.what](self.cluster, victim):
                self.told = f"{self.name} of {victim}: {len(pids)} processes"
                return victim, pids
        raise AssertionError(f"{self.name}: no member has any")


class Kill(_Signal):
    """SIGKILL. A node that is killed stays down until it is healed; else what is killed is started
    again at once by whose task that is."""

    allowance_s = AGENT_START_S

    def strike(self) -> None:
        victim, pids = self.choose()
        if self.what == "node":
            self.cluster.services.down.add(victim)
            self.undo.callback(self.cluster.services.down.discard, victim)
        send(pids, signal.SIGKILL)
        wait_for(f"{self.told}: gone", lambda: are_gone(pids), timeout=5)


class Freeze(_Signal):
    """SIGSTOP, and SIGCONT to heal."""

    def strike(self) -> None:
        _, pids = self.choose()
        self.undo.callback(send, pids, signal.SIGCONT)
        send(pids, signal.SIGSTOP)
        wait_for(f"{self.told}: stopped", lambda: all(map(is_stopped, pids)), timeout=5)


def _state(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "X"
    return stat[stat.rindex(")") + 2]


def is_stopped(pid: int) -> bool:
    """Return whether the process does nothing: it was stopped, is gone, or waits for a disk."""
    return _state(pid) in "TDZX"


def are_gone(pids: Iterable[int]) -> bool:
    """Return whether none lives; one that waits for a frozen disk dies when that is thawed."""
    return not any(alive(pid) and _state(pid) != "D" for pid in pids)


def _named(base: type[Nemesis], verb: str, what: str) -> type[Nemesis]:
    name = f"{verb}-{what}"
    return type(name, (base,), {"name": name, "what": what, "__doc__": base.__doc__})


SIGNALS: list[type[Nemesis]] = [
    _named(base, verb, what)
    for base, verb in ((Kill, "kill"), (Freeze, "freeze"))
    for what in PROCESSES
]
