"""A nasty PostgreSQL: what docs on its hazards say, in virtual time.

A reload is taken over late, and by every process at a time of its own.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pgregent.core.types import PgState, Position, Postgres, Walsender
from tests.sim.fake_link import RETRY, Link, StrayLink
from tests.sim.fake_wal import START_LSN, Disk, Wal, extends, has_timeline, parse_names
from tests.sim.world import Proc, Signal

if TYPE_CHECKING:
    from tests.sim.node import Node


class Server:
    """One run of PostgreSQL on a data directory."""

    def __init__(self, node: "Node", number: int) -> None:
        self.node, self.world = node, node.world
        self.disk: Disk = node.disk
        self.number = number
        self.proc = Proc(f"{node.name} postgres")
        self.state = PgState.STARTING
        self.names = parse_names(self.disk.conf.names)
        self.names_text = self.disk.conf.names
        self.flag = bool(self.disk.conf.names)
        """sync_standbys_defined: only the checkpointer sets it."""
        self.upstream: str | None = self.disk.conf.upstream
        self.label = self.disk.conf.label
        self.restore = self.disk.conf.restore
        self.senders: list[Link] = []
        self.receiver: Link | None = None
        self.waiting: list[tuple[Wal, Callable[[], None]]] = []
        self.released = 0
        self.reload_lsn = 0
        self.replayed = START_LSN
        self.paused = False
        self.settled = False
        self.hung = False
        self.orphaned = False
        """Its postmaster is dead; the sessions that it had go on."""
        self.closed = not self.disk.standby
        """Clients are not let in yet."""
        self.by_hand = False
        """Somebody called pg_promote; nobody was appointed."""
        self.told = False
        """The agent was told that it ended."""
        self.seen: Wal | None = None
        """The newest record that a session here sees."""
        self.stopping = False
        self.ended = Signal()
        self.promoting = False
        self.promotion_takes = (0.001, 0.15)
        if node.cluster_.strikes("a promotion is slow"):
            self.promotion_takes = (1.0, 30.0)
        self.timeline = 0
        self.blocked = False
        """A session reads here, and replay waits for it."""
        self.world.call(self.world.between(0.02, 0.4), self.proc, self._booted)

    @property
    def alive(self) -> bool:
        return self.proc.alive

    @property
    def is_promoted(self) -> bool:
        return self.state is PgState.PRIMARY

    @property
    def answers(self) -> bool:
        """Whether a fresh connection would be answered now."""
        running = self.state in (PgState.STANDBY, PgState.PRIMARY)
        cut_off = self.proc.frozen or self.hung or self.orphaned
        return self.alive and running and not cut_off

    # --- starting and stopping -----------------------------------------------------------------

    def _booted(self) -> None:
        if self.state is not PgState.STARTING:
            return
        if not self.disk.usable and self.world.random.random() < 0.5:
            self.die("recovery cannot find a valid checkpoint")
            return
        if not self.disk.usable or (self.disk.standby and self.disk.has_late_stubs):
            # The control file stays as it was.
            self.node.say("postgres waits for ever for WAL that it could start from")
            return
        self.disk.clean = False
        if self.disk.standby and self.disk.needed_lsn > self.disk.end:
            self.settled = True
            self.node.say("postgres starts, not consistent yet")
            self.retry_soon(0.0)
            return
        if self.disk.standby:
            self.state = PgState.STANDBY
            self.world.call(self.world.between(0.001, 0.05), self.proc, self._settle)
        else:
            self.state = PgState.PRIMARY
            self.timeline = self.disk.log[-1].timeline if self.disk.log else 1
            self.seen = self.append()
        self.node.say(f"postgres runs as {self.state.value} at {self.disk.position}")

    def _settle(self) -> None:
        self.settled = True
        self.replayed = self.disk.end
        self.disk.control_timeline = self.disk.log[-1].timeline if self.disk.log else 1
        self.retry_soon(0.0)

    def die(self, why: str, *, silently: bool = False) -> None:
        """Every process of it is gone. Commits that waited are in the log, unacknowledged."""
        if not self.proc.alive:
            return
        self.proc.alive = False
        self.ended.fire()
        self.waiting.clear()
        for link in [*self.senders, *([self.receiver] if self.receiver else [])]:
            link.close(silently)
        self.node.say(f"postgres ends: {why}")
        if self.node.server is self:
            self.node.server_ended(self, why)

    def lose_postmaster(self) -> None:
        """Only the postmaster is killed: sessions and walsenders go on until the guard, or in its
        place the agent, has ended every one of them."""
        if self.orphaned or not self.alive:
            return
        self.orphaned = True
        self.node.say("the postmaster dies, its sessions go on")
        for link in self.senders:
            self.world.call(self.world.between(0.0, 0.1), self.proc, link.close)
        self.node.postmaster_ended(self)

    def shut_down(self) -> Signal:
        """A fast shutdown: sessions end, a checkpoint, and standbys get all of it first."""
        if self.stopping:
            return self.ended
        if self.orphaned:
            self.die("killed, since its postmaster is dead")
            return self.ended
        self.stopping = True
        self.waiting.clear()
        primary = self.state is PgState.PRIMARY
        self.disk.checkpoint_lsn = self.disk.end if primary else 0
        if primary:
            self.append()
        self.disk.control_timeline = max(self.disk.control_timeline, self.disk.position.timeline)
        self._drain(primary, self.disk.end, self.world.now + 30.0)
        return self.ended

    def _drain(self, primary: bool, end: int, limit: float) -> None:
        behind = primary and any(link.flush < end for link in self.senders)
        if behind and self.world.now < limit:
            self.world.call(0.01, self.proc, self._drain, primary, end, limit)
            return
        # Also where a standby was given up: what it has, this does not say.
        self.disk.clean = True
        self.die("shut down")

    # --- configuration -------------------------------------------------------------------------

    def reload(self) -> None:
        """SIGHUP: every process takes the file over at a time of its own."""
        self.world.call(self.world.between(0.0005, 0.01), self.proc, self._reloaded)

    def _reloaded(self) -> None:
        conf = self.disk.conf
        self.names, self.names_text = parse_names(conf.names), conf.names
        self.reload_lsn = self.disk.end
        for link in self.senders:
            late = 50 if self.world.random.random() < 0.1 else 1
            self.world.call(self.world.between(0.0, 0.06) * late, self.proc, self._adopt, link)
        self.world.call(self.world.between(0.001, 0.4), self.proc, self.set_flag)
        self.world.call(self.world.between(0.001, 0.03), self.proc, self._redirect)

    def _adopt(self, link: Link) -> None:
        link.names = self.names
        self.flushed_by(link)

    def set_flag(self) -> None:
        """The checkpointer takes the names over; emptied, they release whoever waits."""
        self.flag = bool(parse_names(self.disk.conf.names)[0])
        if not self.flag:
            self._release(self.disk.end)

    def _redirect(self) -> None:
        conf = self.disk.conf
        same = (conf.upstream, conf.label) == (self.upstream, self.label)
        self.upstream, self.label, self.restore = conf.upstream, conf.label, conf.restore
        if self.receiver is not None and not same:
            self.receiver.end_receiver()
        self.retry_soon(self.world.between(0.001, 0.04))

    # --- a standby -----------------------------------------------------------------------------

    def retry_soon(self, delay: float) -> None:
        self.world.call(delay, self.proc, self._connect)

    def _connect(self) -> None:
        if self.state is PgState.PRIMARY or self.receiver:
            return
        if not self.settled or self.stopping or self.promoting:
            return
        if self.restore:
            self._from_archive()
        if not self.upstream:
            return
        up = self.node.cluster[self.upstream].server
        kind = None if up is None else self._streams(up)
        if up is None or kind is None:
            self.retry_soon(RETRY * (0.5 + self.world.random.random()))
            return
        self.receiver = kind(up, self, self.label.lower())
        up.senders.append(self.receiver)
        for n, real in up.disk.histories.items():
            self.disk.histories[n] = self.disk.histories.get(n, False) or real
        self.receiver.begin()

    def _streams(self, up: "Server") -> type[Link] | None:
        """What comes of an attempt to stream from there; None: nothing."""
        world, names = self.world, (self.node.name, up.node.name)
        running = up.answers and not up.stopping and up.disk.system_id == self.disk.system_id
        if not running or not world.net.both("sql", *names):
            return None
        slot = self.node.name
        if slot not in up.disk.slots or any(s.standby.node is self.node for s in up.senders):
            return None
        if extends(self.disk.log, up.disk.log):
            return Link
        mine, log = self.disk.position.timeline, up.disk.log
        strays = mine < up.disk.position.timeline and has_timeline(log, len(log), mine)
        # Only where the fork lies in the segment that it is in.
        return StrayLink if strays and world.random.random() < 0.5 else None

    def _from_archive(self) -> None:
        """The restore_command feeds it whatever the archive has of its lineage."""
        newest = self.disk.newest_real_history
        for log, count in self.node.cluster_.archive:
            mine = self.disk.log
            if newest > 1 and not has_timeline(log, count, newest):
                continue  # It asks for no WAL of what it knows to have been left.
            if count > len(mine) and extends(mine, log):
                mine.extend(log[len(mine) : count])
                self.world.hit("WAL from the archive")
                self.received()
        if not self.upstream:
            self.retry_soon(self.world.between(0.05, 0.5))

    def received(self) -> None:
        """WAL was flushed here: replay follows, and cascading standbys get it."""
        self.node.checker.received(self.node)
        delay = self.world.between(0.0, 0.02)
        if self.state is PgState.STARTING and self.disk.end >= self.disk.needed_lsn:
            self.world.call(delay, self.proc, self._booted)
        self.world.call(delay, self.proc, self._replay, self.disk.end)
        for link in self.senders:
            link.pump()

    def _replay(self, lsn: int) -> None:
        if not self.paused and not self.blocked:
            self.replayed = max(self.replayed, lsn)

    def end_readers(self) -> None:
        """The sessions that held replay back are gone: it catches up at once."""
        if self.blocked:
            self.blocked = False
            self._replay(self.disk.end)

    def request_promotion(self) -> None:
        """It cannot be recalled, and it is done when replay is; nobody has to wait for it."""
        if not self.promoting:
            self.promoting = True
            if self.receiver is not None:
                self.receiver.end_receiver()
            takes = min(self.world.between(*self.promotion_takes), self.promotion_takes[1])
            self.world.call(takes, self.proc, self._promote)

    def _promote(self) -> None:
        if self.paused:
            self.world.hit("a promotion shuts the server down")
            self.die("recovery aborted because of insufficient parameter settings")
            return
        if self.blocked:
            self.world.call(0.05, self.proc, self._promote)
            return
        disk = self.disk
        known = [n for n, real in disk.histories.items() if real]
        newest = max([disk.position.timeline, *known])
        self.timeline = newest + 1
        while self.timeline in disk.histories:
            self.timeline += 1
        self.parent, self.start = disk.position.timeline, disk.end
        disk.histories[self.timeline] = True
        self.world.call(self.world.between(0.0005, 0.005), self.proc, self._promoted)

    def _promoted(self) -> None:
        self.replayed = self.disk.end
        self.state = PgState.PRIMARY
        self.disk.standby = False
        self.seen = self.append()
        self.node.say(f"postgres is promoted to timeline {self.timeline}")
        after = self.world.random.choice((1.0, 10.0, 100.0))
        self.world.call(self.world.between(0.1, after), self.proc, self.checkpoint)

    # --- a primary -----------------------------------------------------------------------------

    def append(self, write: int | None = None) -> Wal:
        """Put one record into WAL and flush it."""
        record = Wal(self.timeline, self.disk.end + self.world.random.randrange(50, 150), write)
        self.disk.log.append(record)
        self.replayed = record.lsn
        self.node.checker.wrote(self.node, record)
        for link in self.senders:
            link.pump()
        if self.node.cluster_.archiving and len(self.disk.log) % 16 == 0:
            self.node.cluster_.archived(self.disk.log)
        return record

    def commit(self, write: int, acknowledged: Callable[[], None]) -> bool:
        """Commit; `acknowledged` is called if and when the client is told. Whether it was begun."""
        if self.state is not PgState.PRIMARY or self.stopping or not self.alive:
            return False
        record = self.append(write)

        def acknowledge() -> None:
            self.node.checker.acknowledged(self.node, record)
            acknowledged()

        if not self.flag or record.lsn <= self.released:
            self.seen = record
            acknowledge()
        else:
            self.waiting.append((record, acknowledge))
        return True

    def flushed_by(self, link: Link) -> None:
        """A standby's reply: its walsender lets commits through, by its own idea of the names."""
        if link.flush > self.reload_lsn:
            link.names = self.names
        k, labels = link.names
        if k == 0 or link.label not in labels or not link.sending:
            return
        # The k is this walsender's; who is a member, every walsender says of itself.
        members = (s for s in self.senders if s.label in s.names[1])
        counted = sorted((s.flush for s in members), reverse=True)
        if len(counted) >= k:
            self._release(counted[k - 1])

    def _release(self, lsn: int) -> None:
        self.released = max(self.released, lsn)
        if self.state is PgState.PRIMARY:
            through = [w for w in self.waiting if w[0].lsn <= self.released]
            self.waiting = [w for w in self.waiting if w[0].lsn > self.released]
            for record, acknowledge in through:
                self.seen = record
                acknowledge()

    def cancel_one(self) -> bool:
        """A client cancels its wait: the commit stands without a standby. That others read it at
        once is not in `seen`: nothing is promised of what somebody waived."""
        if self.waiting and self.state is PgState.PRIMARY:
            self.waiting.pop(self.world.random.randrange(len(self.waiting)))
            return True
        return False

    def checkpoint(self) -> None:
        """CHECKPOINT: the control file and the checkpointer's flag are up to date."""
        self.disk.control_timeline = self.disk.position.timeline
        if bool(parse_names(self.disk.conf.names)[0]) != self.flag:
            self.set_flag()

    # --- looking -------------------------------------------------------------------------------

    def look(self, answered_at: float) -> Postgres:
        """What SQL on a kept connection shows."""
        disk = self.disk
        if self.state is PgState.PRIMARY:
            return Postgres(
                PgState.PRIMARY,
                Position(self.timeline, disk.end),
                disk.end,
                names=self.names_text,
                walsenders=tuple(Walsender(s.label, True, s.flush) for s in self.senders),
                answered_at=answered_at,
                system_id=disk.system_id,
            )
        return Postgres(
            PgState.STANDBY,
            disk.position if self.settled else None,
            self.replayed,
            streaming=self.receiver is not None,
            upstream_timeline=self.receiver.timeline if self.receiver is not None else 0,
            replay_paused=self.paused,
            answered_at=answered_at,
            system_id=disk.system_id,
            newest_history=max(disk.histories, default=1),
        )
