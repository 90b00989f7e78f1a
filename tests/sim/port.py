"""What the agent does with its server: the steps of adapters/postgres/server.py in virtual time.

Each method is a generator; it can be abandoned or fail at every `yield`, and what was done before
that stays done.
"""

from typing import TYPE_CHECKING

from pgregent.core.errors import Refused, Unavailable
from pgregent.core.events import Promoted, Sealed
from pgregent.core.types import PgState, Postgres
from tests.sim.fake_postgres import Server
from tests.sim.fake_wal import Conf, Disk, extends
from tests.sim.world import Signal, Work

if TYPE_CHECKING:
    from tests.sim.node import Node

POLL = 0.005
FRESH_EVERY = 1.0
START_TIMEOUT = 300.0
REAPED = 0.01
"""Seconds within which the guard has told of an exit."""


class Port:
    """One agent's hold on its node's server."""

    def __init__(self, node: "Node") -> None:
        self.node, self.world = node, node.world
        self.stopping = False
        self._made_at = self._answered_at = 0.0

    # --- looking -------------------------------------------------------------------------------

    def gone(self) -> None:
        self._made_at = self._answered_at = 0.0

    def connect_guard(self) -> Work:
        """Without a guard: kill every process of the data directory, then start one."""
        if self.node.guard is None:
            yield self.world.between(0.03, 0.3)
        if self.node.guard is None:
            self.world.hit("a data directory is emptied")
            self.node.new_guard()

    def look(self) -> Postgres:
        """See adapters/postgres/observe.py."""
        node, server = self.node, self.node.server
        if server is None or server.told or node.guard is None:
            return self._from_disk()
        if server.state is PgState.STARTING:
            return Postgres(PgState.STARTING, answered_at=self._answered_at)
        if node.clock() - self._made_at >= FRESH_EVERY:
            if not server.answers:
                return Postgres(PgState.UNKNOWN, answered_at=self._answered_at)
            self._made_at = self._answered_at = node.clock()
        return server.look(self._answered_at)

    def _from_disk(self) -> Postgres:
        disk = self.node.disk
        if not disk.exists:
            return Postgres(PgState.ABSENT)
        return Postgres(
            PgState.STOPPED,
            disk_timeline=disk.control_timeline if disk.standby else disk.position.timeline,
            clean=disk.clean,
            was_primary=not disk.standby,
            checkpoint_lsn=disk.checkpoint_lsn,
            system_id=disk.system_id,
            newest_history=max(disk.histories, default=1),
        )

    def _running(self) -> Server:
        server = self.node.server
        if server is None or not server.answers:
            raise Unavailable("postgres", "it does not answer")
        return server

    # --- starting and stopping -----------------------------------------------------------------

    def start(
        self, label: str, names: str, upstream: str | None, standby: bool, deadline: float | None
    ) -> Work:
        yield from self.connect_guard()
        yield self.world.between(0.001, 0.01)
        node, disk = self.node, self.node.disk
        if node.guard is None:
            raise Unavailable("guard", "it died")
        if not disk.exists:
            raise Refused("there is no data directory")
        if node.server is not None:
            raise Unavailable("guard", "a server still runs")
        restore = upstream is not None and node.cluster_.archiving
        disk.conf = Conf(label if upstream else "", names, upstream, restore)
        disk.remove_late_stubs()
        disk.standby = standby
        server = node.run_server(deadline)
        until = self.world.now + START_TIMEOUT
        while not server.answers:
            if not server.alive:
                yield 5.0
                raise Unavailable("postgres", "it ended while it started")
            if self.world.now > until:
                raise Unavailable("postgres", "not started in time")
            yield 0.02
        self._made_at = self._answered_at = node.clock()

    def stop(self, immediate: bool) -> Work:
        yield from self.connect_guard()
        self.stopping = True
        try:
            yield self.world.between(0.0005, 0.005)
            server = self.node.server
            if server is not None and not immediate and server.state is not PgState.STARTING:
                yield server.shut_down()
            elif server is not None:
                server.die("killed by its guard")
            # The guard tells of the exit before it answers.
            yield self.world.between(REAPED, 2 * REAPED)
        finally:
            self.stopping = False
        self.gone()

    def set_deadline(self, number: int, at: float | None) -> Work:
        yield self.world.between(0.0002, 0.002)
        server = self.node.server
        if server is None or server.number != number or self.node.guard is None:
            raise Unavailable("guard", "another server runs")
        self.node.guard.set_deadline(at)

    # --- a running standby ---------------------------------------------------------------------

    def _reconfigure(self, label: str, names: str, upstream: str | None) -> Work:
        yield self.world.between(0.0005, 0.005)
        restore = upstream is not None and self.node.cluster_.archiving
        self.node.disk.conf = Conf(label, names, upstream, restore)
        yield from self.connect_guard()
        yield self.world.between(0.0002, 0.002)
        server = self.node.server
        if server is None or server.orphaned:
            raise Unavailable("guard", "no server runs")
        server.reload()

    def follow(self, label: str, names: str, upstream: str) -> Work:
        yield from self._reconfigure(label, names, upstream)

    def seal(self, round_: int, names: str) -> Work:
        yield from self._reconfigure("", names, None)
        until = self.world.now + 10.0
        while self.world.now < until:
            server = self._running()
            if server.state is not PgState.STANDBY:
                raise Unavailable("postgres", "it is not a standby")
            # Recovery has the new configuration once it has redirected itself.
            gone = server.receiver is None and server.upstream is None and not server.restore
            if gone and server.settled:
                disk = self.node.disk
                return Sealed(round_, disk.position, max(disk.histories, default=1))
            yield POLL
        raise Unavailable("postgres", "its walreceiver has not gone")

    def promote(self, term: int, names: str) -> Work:
        disk = self.node.disk
        if any(n >= term for n in disk.histories):
            raise Refused(f"term {term} is taken: {disk.histories}")
        yield self.world.between(0.0005, 0.005)
        for n in range(2, term):
            disk.histories.setdefault(n, False)
        yield from self._reconfigure("", names, None)
        self._running().end_readers()
        yield self.world.between(0.0, 0.02)
        server = self._running()
        if server.state is not PgState.STANDBY:
            raise Refused("it is a primary already")
        server.request_promotion()
        until = self.world.now + 15.0
        while self.world.now < until:
            yield POLL
            if not server.alive:
                raise Unavailable("postgres", "connection lost")
            if server.is_promoted:
                return Promoted(server.timeline, server.parent, server.start)
        raise Unavailable("postgres", "promotion has not completed")

    # --- a running primary ---------------------------------------------------------------------

    def apply_names(self, names: str, checkpoint: bool, all_walsenders: bool = False) -> Work:
        yield from self._reconfigure("", names, None)
        until = self.world.now + 5.0
        while True:
            server = self._running()
            if server.names_text == names:
                if checkpoint:
                    yield self.world.between(0.005, 0.5)
                    self._running().checkpoint()
                if all_walsenders:
                    yield from self._walsenders_have_reloaded()
                return
            if self.world.now > until:
                raise Refused(f"synchronous_standby_names is {server.names_text!r}")
            yield POLL

    def _walsenders_have_reloaded(self) -> Work:
        patient = self.world.now + 0.5
        while True:
            server = self._running()
            stale = [link for link in server.senders if link.names != server.names]
            if not stale:
                return
            if self.world.now > patient + 5.0:
                raise Unavailable("postgres", "walsenders have not seen the reload")
            for link in stale if self.world.now > patient else ():
                link.close()
            yield POLL

    def barrier(self, names: str) -> Work:
        yield self.world.between(0.001, 0.01)
        server = self._running()
        if server.names_text != names:
            raise Unavailable("postgres", f"a new session works under {server.names_text!r}")
        yield self.world.between(0.0, 0.005)
        done = Signal()
        if not server.alive or not server.commit(self.node.checker.new_write(), done.fire):
            raise Unavailable("postgres", "not a primary")
        until = self.world.now + 10.0
        while not done.fired:
            yield 0.01
            if not server.alive or server.stopping:
                raise Unavailable("postgres", "connection lost")
            if self.world.now > until:
                raise Unavailable("postgres", "no standby has acknowledged the barrier")

    def admit(self) -> Work:
        """Let clients in."""
        yield self.world.between(0.001, 0.02)
        self._running().closed = False

    def checkpoint(self) -> Work:
        yield self.world.between(0.005, 5.0)
        self._running().checkpoint()

    def keep_slots(self, members: tuple[str, ...]) -> Work:
        yield self.world.between(0.001, 0.02)
        self._running()
        self.node.disk.slots = set(members)

    # --- data directories ----------------------------------------------------------------------

    def initdb(self) -> Work:
        yield self.world.between(0.2, 1.0)
        system_id = str(self.world.random.randrange(10**9))
        self.node.disk = Disk(exists=True, system_id=system_id, standby=False, clean=True)
        yield 0.001
        return system_id

    def _source(self, name: str, before: Server | None) -> Server:
        server = self.node.cluster[name].server
        if server is None or (before is not None and server is not before):
            raise Refused("the source ended")
        reachable = self.world.net.both("sql", self.node.name, name)
        if not server.answers or not reachable or server.state is not PgState.PRIMARY:
            raise Refused("the source does not answer")
        return server

    def rewind(self, source: str) -> Work:
        node, disk = self.node, self.node.disk
        yield self.world.between(0.01, 0.1)
        server = self._source(source, None)
        if server.disk.system_id != disk.system_id or node.server is not None:
            raise Refused("pg_rewind refuses")
        self.checkpoint_at(server)
        yield self.world.between(0.01, 0.5)
        self._source(source, server)
        if server.disk.control_timeline == disk.control_timeline:
            node.say("pg_rewind says: no rewind required")
            if not extends(disk.log, server.disk.log):
                node.checker.broken(f"S5: {node.name} goes on with a log that has diverged")
            return
        node.checker.destroyed(node, "rewind")
        # pg_rewind ends recovery first where that is needed; the control file is changed last.
        disk.usable, disk.clean = False, True
        for _ in range(3):
            yield self.world.between(0.02, 0.3)
            self._source(source, server)
            if node.cluster_.strikes("a rewind fails in the middle"):
                raise Refused("pg_rewind: could not find previous WAL record")
        copied = self.world.random.choice((0, 0, 1, 5, 100))
        disk.log = server.disk.log[: max(0, len(server.disk.log) - copied)]
        disk.needed_lsn = server.disk.end
        disk.histories = dict(server.disk.histories)
        disk.control_timeline, disk.segment = server.timeline, (0, 0)
        disk.usable, disk.clean, disk.foreign = True, False, False
        yield 0.001

    def checkpoint_at(self, source: Server) -> None:
        """Before it, the control file of a new primary shows the timeline before."""
        source.checkpoint()

    def clone(self, source: str) -> Work:
        node = self.node
        yield self.world.between(0.01, 0.1)
        server = self._source(source, None)
        for _ in range(4):
            yield self.world.between(0.05, 0.6)
            self._source(source, server)
        if node.disk.exists:
            node.checker.destroyed(node, "clone")
        newest = server.disk.newest_real_history
        node.disk = Disk(
            exists=True,
            system_id=server.disk.system_id,
            log=list(server.disk.log),
            histories={newest: True} if newest > 1 else {},
            control_timeline=server.timeline,
        )
        yield 0.001
