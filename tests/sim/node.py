"""One node: its disk, its guard, its server and its agent, each with a life of its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pgregent.core.events import Leave, PostgresExited
from pgregent.core.types import Durable, Incarnation, Settings
from tests.sim.agent import SimAgent
from tests.sim.fake_postgres import Disk, Server
from tests.sim.world import Proc, World

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.invariants import Checker


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
            self.node.world.call(at - self.node.world.now, self.proc, self.check)

    def check(self) -> None:
        """Kill a server whose time has passed."""
        server = self.node.server
        if self.deadline is not None and self.node.world.now >= self.deadline and server:
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
        if self.agent is not None:
            return
        if self.guard is None:
            self.guard = Guard(self)
        self.silent = False
        self.left = False
        self.say("agent starts")
        self.agent = SimAgent(self)
        self.agent.proc.frozen += self.frozen
        self.guard.proc.frozen = int(self.frozen)

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
            self.world.call(self.world.between(0.0005, 0.01), self.guard.proc, self._tell, why)

    def _tell(self, why: str) -> None:
        if self.agent is not None:
            self.agent.server_exited(why)

    def kill_agent(self, *, silently: bool = False) -> None:
        """The agent dies; guard and server go on."""
        if self.agent is not None:
            agent, self.agent = self.agent, None
            agent.proc.alive = False
            self.say("agent dies")
            self.cluster_.channel.closed(self.name, silently)

    def kill_server(self) -> None:
        if self.server is not None:
            self.server.die("killed")

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

    def leave(self, whole_cluster: bool = False) -> None:
        if self.agent is not None:
            self.say("told to leave")
            self.agent.post(Leave(whole_cluster))

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
        """It goes on; the guard looks at the clock before anything else happens."""
        if not self.frozen:
            return
        self.say("thaws")
        self.frozen = False
        self.checker.thawed(self)
        if self.guard is not None:
            self.guard.check()
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
            if not paused:
                self.server.replayed = self.disk.end

    def lose_data(self, state_too: bool) -> None:
        """The data directory is gone; `state_too`: and what the member promised."""
        self.say("loses its data directory" + (" and its state" if state_too else ""))
        if self.server is not None:
            self.server.die("its data directory is gone")
        self.checker.lost_disk(self)
        self.disk = Disk()
        if state_too:
            self.kill_agent()
            self.store = self.stranger()

    def set_eligible(self, eligible: bool) -> None:
        """Change the tag nofailover (which takes a restart of the agent)."""
        self.settings = replace(self.settings, nofailover=not eligible)


__all__ = ["Guard", "Node", "PostgresExited"]
