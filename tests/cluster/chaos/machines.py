"""Nemeses of a node's disk and clock, of the DCS, and of agents at one point of the protocol."""

import signal
import subprocess
from abc import abstractmethod
from typing import ClassVar

from tests.cluster.chaos.hooked_agent import POINTS
from tests.cluster.chaos.nemesis import AGENT_START_S, DCS_START_S, Nemesis, are_gone, is_stopped
from tests.cluster.command import COMMAND, clean_environment
from tests.cluster.faults import kill_at_once
from tests.cluster.processes import alive, send, wait_for

_CLOCK_ERRORS_S = (-86400.0, -3600.0, -5.0, 5.0, 3600.0, 86400.0)


class DiskFull(Nemesis):
    """No byte is free on a node's disk."""

    name = "disk-full"
    allowance_s = AGENT_START_S

    def strike(self) -> None:
        disk = self.cluster.disks[self.victim()]
        self.told = f"{self.name} of {disk.place.name}"
        self.undo.callback(disk.empty)
        disk.fill()
        assert disk.free_bytes() < 1 << 20, f"{disk.free_bytes()} bytes are free"


class DiskFrozen(Nemesis):
    """Every write to a node's disk waits."""

    name = "disk-frozen"

    def strike(self) -> None:
        disk = self.cluster.disks[self.victim()]
        self.told = f"{self.name} of {disk.place.name}"
        disk.freeze()
        self.undo.callback(disk.thaw)


class ClockJump(Nemesis):
    """The wall clock of a node's agent jumps, and jumps back; it may start again in between: an
    agent numbers what it sends by the clock at its start."""

    name = "clock-jump"
    allowance_s = AGENT_START_S

    def strike(self) -> None:
        victim, error = self.victim(), self.rng.choice(_CLOCK_ERRORS_S)
        self.told = f"{self.name} of {victim}: {error:+.0f} s"
        file = self.cluster.base / f"clock-{victim}"
        file.write_text(str(error))
        self.undo.callback(file.unlink)
        agent = self.cluster.node(victim).agent
        if agent is not None and self.rng.random() < 0.5:
            self.told += ", its agent killed"
            send([agent], signal.SIGKILL)


class _Dcs(Nemesis):
    allowance_s = DCS_START_S

    def leader(self) -> str:
        servers = self.cluster.dcs_servers
        # Under another fault there may be none.
        leader = (self.cluster.dcs_leaders() or [self.rng.choice(servers)])[0]
        self.told = f"{self.name}: {leader} of {len(servers)}"
        return leader


class DcsLeaderKilled(_Dcs):
    """The DCS's leader is killed, and down until it is healed."""

    name = "dcs-leader-killed"

    def strike(self) -> None:
        leader = self.leader()
        self.cluster.services.down.add(leader)
        self.undo.callback(self.cluster.services.down.discard, leader)
        pids = self.cluster.net.processes(leader)
        send(pids, signal.SIGKILL)
        wait_for(f"{leader} is gone", lambda: not any(map(alive, pids)), timeout=5)


class DcsLeaderFrozen(_Dcs):
    """The DCS's leader is stopped."""

    name = "dcs-leader-frozen"

    def strike(self) -> None:
        pids = self.cluster.net.processes(self.leader())
        self.undo.callback(send, pids, signal.SIGCONT)
        send(pids, signal.SIGSTOP)
        wait_for(f"{self.told}: stopped", lambda: all(map(is_stopped, pids)), timeout=5)


class AgentKilledAt(Nemesis):
    """The first agent that gets to a point of the election, or of the rule change after it, that
    the death of the primary's PostgreSQL causes, is killed there."""

    name = "agent-killed-at"
    allowance_s = AGENT_START_S

    def strike(self) -> None:
        self.point = self.rng.choice(POINTS)
        file = self._file = self.cluster.base / "point"
        self.undo.callback(file.unlink, missing_ok=True)
        new = self.cluster.base / "point.new"
        new.write_text(self.point)
        new.rename(file)
        self.told = f"{self.name}: {self.point}"
        pids = self.cluster.postgres_processes(self.primary)
        kill_at_once(sorted(pids))
        wait_for(f"{self.primary}'s server is gone", lambda: are_gone(pids), timeout=5)

    def is_due(self) -> bool:
        """Return whether nobody has come to the point yet."""
        return self._file.exists()

    def died(self) -> str:
        """Return who died there, "" if nobody came to the point (before it was healed)."""
        found = [*self.cluster.base.glob("point-of-*")]
        for file in found:
            file.unlink()
        return ", ".join(file.name.removeprefix("point-of-") for file in found)


class Operator(Nemesis):
    """An operator asks for something; it ends by itself, healed or not."""

    command: ClassVar[str]

    @abstractmethod
    def wants(self) -> list[str]:
        """Return the command's other words."""

    def strike(self) -> None:
        file = str(self.cluster.base / f"{self.cluster.names[0]}.yml")
        words = [self.command, "--force", "-c", file, *self.wants()]
        with (self.cluster.base / f"{self.command}.log").open("ab") as log:
            self._asked = subprocess.Popen(
                [*COMMAND, *words],
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def finish(self) -> str:
        """Wait until the operator knows how it went; return what was said at the end."""
        self._asked.wait(90)
        return (self.cluster.base / f"{self.command}.log").read_text().splitlines()[-1:][0]


class Switchover(Operator):
    """For a switchover, to whom it may be."""

    name = command = "switchover"

    def wants(self) -> list[str]:
        to = self.rng.choice(["", *self.standbys()])
        self.told = f"{self.name} from {self.primary}" + (f" to {to}" if to else "")
        return ["--candidate", to]


class Restart(Operator):
    """For a restart of a member's PostgreSQL."""

    name = command = "restart"

    def wants(self) -> list[str]:
        victim = self.victim()
        self.told = f"{self.name} of {victim}"
        return ["--timeout", "60", victim]


class Reinit(Operator):
    """For a new copy of a standby."""

    name = command = "reinit"

    def wants(self) -> list[str]:
        victim = self.rng.choice(self.standbys())
        self.told = f"{self.name} of {victim}"
        return [victim]


MACHINES: list[type[Nemesis]] = [
    DiskFull,
    DiskFrozen,
    ClockJump,
    DcsLeaderKilled,
    DcsLeaderFrozen,
    AgentKilledAt,
    Switchover,
    Restart,
    Reinit,
]
