"""The simulator's PostgreSQL behind the scenarios: nodes without agents, in virtual time."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

from pgregent.core.errors import Refused, Unavailable
from pgregent.core.types import PgState
from tests.conformance.fakes.lab import Commit, Lab, Part, Rewind, Session, Stop, nothing
from tests.sim.cluster import Cluster
from tests.sim.fake_postgres import Server
from tests.sim.fake_wal import Conf, Disk
from tests.sim.node import Guard, Node
from tests.sim.port import Port
from tests.sim.world import Proc, Task, Work

T = TypeVar("T")
NAMES = {"a": "n1", "b": "n2", "c": "n3"}
PATIENCE = 60.0
TRIES = 3.0
"""Seconds in which a standby has tried more than once."""


class FakeSession(Session):
    """The fake has no connections; what matters of one is when it was made."""

    def __init__(self, lab: "SimulatedLab", server: Server) -> None:
        self._lab, self._server = lab, server

    async def commit(self) -> Commit:
        commit = Commit(self._lab.cluster.checker.new_write())

        def acknowledged() -> None:
            commit.acked = True

        if not self._server.commit(commit.number, acknowledged):
            raise Unavailable("postgres", "it takes no commit")
        commit.lsn = self._server.disk.end
        self._lab.commits[commit.number] = self._server
        return commit


class SimulatedLab(Lab):
    """Plays PostgreSQL 15."""

    major = 15

    def __init__(self, seed: int) -> None:
        self.cluster = Cluster(seed, nodes=len(NAMES))
        self.world = self.cluster.world
        self.commits: dict[int, Server] = {}
        # What PostgreSQL can do is what is asked here, also where an agent would be wrong to.
        self.cluster.checker.broken = lambda what: None
        for node in self.cluster.nodes.values():
            node.guard = Guard(node)

    def _node(self, name: str) -> Node:
        return self.cluster[NAMES[name]]

    def _server(self, name: str) -> Server:
        server = self._node(name).server
        if server is None:
            raise Unavailable("postgres", f"{name} does not run")
        return server

    async def connect(self, name: str) -> Session:
        server = self._server(name)
        if not server.answers or server.stopping:
            raise Unavailable("postgres", f"{name} does not answer")
        return FakeSession(self, server)

    # Making and ending servers

    async def primary(self, name: str, names: str = "", *, archives: bool = False) -> None:
        self.cluster.archiving = archives
        self._node(name).disk = Disk(exists=True, system_id="1", standby=False, clean=True)
        await self.start_primary(name, names)

    async def standby(self, name: str, of: str) -> None:
        source = self._node(of).disk
        self._node(name).disk = Disk(exists=True, system_id="1", log=list(source.log))
        await self.start(name, of=of)
        await self.streams(name, of)

    async def start(self, name: str, *, of: str | None = None, names: str = "") -> None:
        upstream = None if of is None else NAMES[of]
        if of is not None:
            self._node(of).disk.slots.add(NAMES[name])
        await self._start(name, Conf(name if of else "", names, upstream), True)

    async def start_primary(self, name: str, names: str = "") -> None:
        await self._start(name, Conf("", names, None), False)

    async def _start(self, name: str, conf: Conf, standby: bool) -> None:
        node = self._node(name)
        node.disk.conf, node.disk.standby = conf, standby
        if node.guard is None:
            node.new_guard()
        server = node.run_server(None)

        async def answers() -> bool:
            assert server.alive, self.cluster.transcript()
            return server.answers

        await self.eventually(f"{name} answers", answers, every=0.0005)

    async def begin_stop(self, name: str, how: Stop) -> None:
        if how is Stop.FAST:
            self._server(name).shut_down()
        else:
            self._server(name).die(how.value)

    async def runs(self, name: str) -> bool:
        return self._node(name).server is not None

    # What goes wrong

    def slow(self, name: str, part: Part) -> AbstractAsyncContextManager[None]:
        return nothing()

    @asynccontextmanager
    async def frozen(self, name: str) -> AsyncGenerator[None]:
        server = self._server(name)
        server.proc.frozen += 1
        yield
        self.world.thaw(server.proc)

    @asynccontextmanager
    async def postmaster_frozen(self, name: str) -> AsyncGenerator[None]:
        server = self._server(name)
        server.hung = True
        yield
        server.hung = False

    async def replay_stops(self, name: str, of: str) -> None:
        self._node(name).pause_replay(True)

    async def end_wait(self, commit: Commit, *, terminate: bool) -> None:
        # One and the same to the simulator.
        assert self.commits[commit.number].cancel_one()

    async def orphan_commits(self, name: str) -> set[int]:
        session, server, node = await self.connect(name), self._server(name), self._node(name)
        node.guard = None  # Nobody ends what the postmaster left.
        server.lose_postmaster()
        self.world.run(self.world.now + 1.0)
        commits = [await session.commit() for _ in range(3)]
        return {commit.number for commit in commits if commit.acked}

    # Configuration

    async def set_names(self, name: str, names: str) -> None:
        server = self._server(name)
        server.disk.conf = Conf(server.disk.conf.label, names, server.disk.conf.upstream)
        server.reload()

        async def shown() -> bool:
            return server.names_text == names

        await self.eventually(f"{name} shows {names!r}", shown, every=0.0001)

    async def checkpoint(self, name: str) -> None:
        self._server(name).checkpoint()

    async def follow(self, name: str, of: str) -> None:
        server = self._server(name)
        self._node(of).disk.slots.add(NAMES[name])
        server.disk.conf = Conf(name, server.disk.conf.names, NAMES[of])
        server.reload()

    async def unfollow(self, name: str, *, restore: bool = False) -> None:
        server = self._server(name)
        server.disk.conf = Conf("", server.disk.conf.names, None, restore)
        server.reload()

    async def switch_wal(self, name: str) -> int:
        log = self._server(name).disk.log
        self.cluster.archived(log)
        return log[-1].lsn

    # Timelines

    async def write_much(self, name: str) -> None:
        for _ in range(100):
            self._server(name).append()

    async def request_promotion(self, name: str) -> None:
        self._server(name).request_promotion()

    async def put_stub(self, name: str, timeline: int) -> None:
        self._node(name).disk.histories[timeline] = False

    async def remove_late_stubs(self, name: str) -> None:
        self._node(name).disk.remove_late_stubs()

    async def fails_to_start(self, name: str) -> bool:
        node = self._node(name)
        node.disk.conf, node.disk.standby = Conf(), True
        server = node.run_server(None)
        self.world.run(self.world.now + TRIES)
        if not server.answers:
            server.die("killed")
            return True
        return False

    async def rewind(self, name: str, source: str, *, checkpoint: bool = True) -> Rewind:
        disk, port = self._node(name).disk, Port(self._node(name))
        before = disk.log
        if not checkpoint:
            port.checkpoint_at = lambda source: None
        error = await self._do(port.rewind(NAMES[source]))
        if error is not None:
            return Rewind.FAILED
        return Rewind.NOT_REQUIRED if disk.log is before else Rewind.DONE

    async def _do(self, work: Work) -> Exception | None:
        ended: list[Exception | None] = []
        Task(self.world, Proc("test"), work, lambda value, error: ended.append(error))
        assert ended or self.world.run(self.world.now + 600.0, lambda: bool(ended))
        return ended[0]

    async def rewind_fails(self, name: str, source: str) -> None:
        self.cluster.ambient["a rewind fails in the middle"] = 1.0
        assert isinstance(await self._do(Port(self._node(name)).rewind(NAMES[source])), Refused)

    async def tries_in_vain(self, name: str, of: str) -> None:
        self.world.run(self.world.now + TRIES)

    # Looking

    async def is_primary(self, name: str) -> bool:
        return self._server(name).is_promoted

    async def position(self, name: str) -> tuple[int, int]:
        async def known() -> tuple[int, int] | None:
            position = self._server(name).look(0.0).position
            return None if position is None else (position.timeline, position.lsn)

        found = await self.eventually(f"{name} knows where its log ends", known)
        assert found is not None
        return found

    async def received(self, name: str) -> int | None:
        position = self._server(name).look(0.0).position
        return None if position is None else position.lsn

    async def has_receiver(self, name: str) -> bool:
        return self._server(name).receiver is not None

    async def counts(self, name: str, standby: str) -> bool:
        return any(
            link.label == standby and link.label in link.names[1]
            for link in self._server(name).senders
        )

    async def confirmed(self, name: str, standby: str) -> int:
        links = [link for link in self._server(name).senders if link.label == standby]
        return max((link.flush for link in links), default=0)

    async def control_timeline(self, name: str) -> int:
        return self._node(name).disk.control_timeline

    async def checkpoint_lsn(self, name: str) -> int:
        return self._node(name).disk.checkpoint_lsn

    async def is_clean(self, name: str) -> bool:
        return self._node(name).disk.clean

    async def reads(self, name: str) -> set[int]:
        server = self._server(name)
        if server.state is PgState.PRIMARY:
            return server.disk.writes() - {record.write for record, _ in server.waiting}
        log = server.disk.log
        return {r.write for r in log if r.write is not None and r.lsn <= server.replayed}

    async def waits(self, commit: Commit) -> bool:
        waiting = self.commits[commit.number].waiting
        return not commit.acked and commit.number in {record.write for record, _ in waiting}

    async def mark(self, name: str) -> int:
        return self._server(name).append().lsn

    async def eventually(
        self, what: str, check: Callable[[], Awaitable[T]], every: float = 0.01
    ) -> T:
        until = self.world.now + PATIENCE
        while self.world.now < until:
            if result := await check():
                return result
            self.world.run(self.world.now + every)
        raise AssertionError(f"{what}: not in time\n{self.cluster.transcript()}")


@asynccontextmanager
async def simulated_lab(seed: int) -> AsyncGenerator[Lab]:
    """The simulator's servers under one tape of chance."""
    yield SimulatedLab(seed)
