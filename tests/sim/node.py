"""One node: its disk, its guard, its server and its agent, each with a life of its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pgregent.core.events import Leave, PostgresExited
from pgregent.core.types import Durable, Incarnation, Settings
from tests.sim.agent import SimAgent
from tests.sim.fake_postgres import Server
from tests.sim.fake_wal import Disk
from tests.sim.port import REAPED
from tests.sim.world import Proc, World

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.invariants import Checker


START = 100.0
EPOCH = 1_700_000_000.0


class Guard:
    """Owns the server: keeps the deadline, tells the agent when the server ended."""

    def __init__(self, node: "Node") -> None:
        self.node = node
        self.proc = Proc(f"{node.name} guard")
        self.deadline: float | None = None

    def set_deadline(self, at: float | None) -> None:
        """Stop the server that runs now at this time."""
        self.deadline = at
        if at is not None:
            after = (at - self.node.clock()) / self.node.clock_rate
            self.node.world.call(after, self.proc, self.check)

    def check(self) -> None:
        """Kill a server whose time has passed."""
        server = self.node.server
        if self.deadline is not None and self.node.clock() >= self.deadline - 1e-9 and server:
            self.deadline = None
            server.die("its authority ran out")


class Node:
    """A machine. Its name lasts; what runs on it comes and goes."""

    def __init__(self, cluster: "Cluster", name: str, settings: Settings) -> None:
        self.cluster_, self.name, self.settings = cluster, name, settings
        self.world: World = cluster.world
        self.checker: Checker = cluster.checker
        self.disk = Disk()
        self.strangers = 0
        self.store = self.stranger()
        self.guard: Guard | None = None
        self.server: Server | None = None
        self.agent: SimAgent | None = None
        self.starts = 0
        self.paused = False
        self.frozen = False
        self.silent = False
        """The power is off: nothing answers, not even its kernel."""
        self.left = False
        self.expected = True
        """It is part of the cluster, and has to be well once everything heals."""
        self.clock_rate = 1.0
        self.wall_offset = 0.0
        """Seconds by which its wall clock is wrong; nothing safe may depend on that."""
        self.slow_disk = False

    def clock(self) -> float:
        """Its CLOCK_BOOTTIME, which drifts, and goes on while the node is frozen."""
        return START + (self.world.now - START) * self.clock_rate

    def wall(self) -> float:
        """Its wall clock: seconds since the epoch."""
        return EPOCH + self.clock() + self.wall_offset

    @property
    def cluster(self) -> "Mapping[str, Node]":
        return self.cluster_.nodes

    def stranger(self) -> Durable:
        """The state of a member without a state file."""
        self.strangers += 1
        return Durable(Incarnation(self.name, f"{self.name}{self.strangers}"))

    def say(self, what: str) -> None:
        self.world.say(self.name, what)

    # --- what runs here ------------------------------------------------------------------------

    def start_agent(self) -> None:
        """Start the agent, and the guard if none runs."""
        if self.agent is not None or not self.expected:
            return
        if self.guard is None:
            self.new_guard()
        self.silent = False
        self.left = False
        self.say("agent starts")
        self.agent = SimAgent(self)
        self.agent.proc.frozen += self.frozen

    def new_guard(self) -> None:
        """Start a guard, on a data directory that no process is left of."""
        if self.server is not None:
            self.server.die("its data directory is emptied of every process")
        self.guard = Guard(self)
        self.guard.proc.frozen = int(self.frozen)

    def kill_guard(self) -> bool:
        """The guard dies alone: its server goes on, and nobody keeps its deadline."""
        if self.guard is None:
            return False
        self.say("guard dies")
        self.guard.proc.alive = False
        self.guard = None
        if self.agent is not None:
            self._tell(self.agent, "its guard is gone")
        return True

    def run_server(self, deadline: float | None) -> Server:
        """The guard starts a server."""
        assert self.guard is not None
        self.starts += 1
        self.server = Server(self, self.starts)
        self.server.paused = self.paused
        self.server.proc.frozen = int(self.frozen)
        self.guard.set_deadline(deadline)
        return self.server

    def server_ended(self, server: Server, why: str) -> None:
        """The guard reaps it and tells the agent, if there is one."""
        self.server = None
        if self.guard is not None:
            self.guard.deadline = None
            if not server.told:
                self.world.call(
                    self.world.between(0.0005, REAPED), self.guard.proc, self._reaped, why
                )

    def postmaster_ended(self, server: Server) -> None:
        """The guard tells the agent first, and then ends what the postmaster left."""
        if self.guard is None:
            return
        after = self.world.between(0.0005, REAPED)

        def tell() -> None:
            server.told = True
            self._reaped("killed")
            why = "killed by its guard"
            self.world.call(self.world.between(0.0, 0.1), guard.proc, server.die, why)

        guard = self.guard
        self.world.call(after, guard.proc, tell)

    def _reaped(self, why: str) -> None:
        if self.agent is not None:
            self.agent.server_exited(why)

    def _tell(self, agent: SimAgent, why: str) -> None:
        after = self.world.between(0.0005, REAPED)
        self.world.call(after, agent.proc, agent.server_exited, why)

    def kill_agent(self, *, silently: bool = False) -> None:
        """The agent dies; guard and server go on."""
        if self.agent is not None:
            agent, self.agent = self.agent, None
            agent.proc.alive = False
            self.say("agent dies")
            self.cluster_.channel.closed(self.name, silently)

    def kill_server(self) -> bool:
        """The postmaster is killed, or (a coin decides) every process of the server."""
        if self.server is None:
            return False
        if self.world.chance(0.5):
            self.server.lose_postmaster()
        else:
            self.server.die("killed")
        return True

    def kill(self, *, silently: bool = False) -> None:
        """Everything on the node dies; silently: as when the power fails."""
        self.say("node dies" + (" silently" if silently else ""))
        if self.guard is not None:
            self.guard.proc.alive = False
            self.guard = None
        if self.server is not None:
            self.server.die("node dies", silently=silently)
        self.kill_agent(silently=silently)
        self.frozen, self.silent = False, silently

    def quit(self) -> None:
        """The agent has left in good order; the guard ends what still runs."""
        self.say("agent leaves")
        self.left = True
        self.kill()

    def leave(self, whole_cluster: bool = False) -> bool:
        """Tell the agent to leave; whether there is one."""
        if self.agent is None:
            return False
        self.say("told to leave")
        self.agent.post(Leave(whole_cluster))
        return True

    # --- faults --------------------------------------------------------------------------------

    def _procs(self) -> list[Proc]:
        owners = (self.guard, self.server, self.agent)
        return [o.proc for o in owners if o is not None]

    def freeze(self) -> None:
        if not self.frozen:
            self.say("freezes")
            self.frozen = True
            for proc in self._procs():
                proc.frozen += 1

    def thaw(self) -> None:
        """It goes on; the guard looks at the clock at once, but others may be earlier."""
        if not self.frozen:
            return
        self.say("thaws")
        self.frozen = False
        self.checker.thawed(self)
        if self.guard is not None:
            self.world.call(self.world.between(0.0, 0.01), self.guard.proc, self.guard.check)
        for proc in self._procs():
            self.world.thaw(proc)
        if self.agent is not None:
            self.agent.thawed()

    def pause_replay(self, paused: bool) -> None:
        """As when max_connections was raised on the primary first."""
        self.say("replay is paused" if paused else "replay goes on")
        self.paused = paused
        if self.server is not None:
            self.server.paused = paused
            if not paused and not self.server.blocked:
                self.server.replayed = self.disk.end

    def lose_data(self, state_too: bool) -> None:
        """The data directory is gone; `state_too`: and what the member promised."""
        self.say("loses its data directory" + (" and its state" if state_too else ""))
        if self.server is not None:
            self.server.die("its data directory is gone")
        self.disk = Disk()
        if state_too:
            self.kill_agent()
            self.store = self.stranger()
            # One that knows no cluster would take another's for its own.
            self.cluster_.dcs.misled.pop(self.name, None)

    def remove_tags(self) -> None:
        """No tag keeps it from anything (which takes a restart of the agent)."""
        self.settings = replace(self.settings, nofailover=False, nosync=False)


__all__ = ["Guard", "Node", "PostgresExited"]
