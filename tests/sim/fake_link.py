"""Streaming replication between two of the simulator's servers."""

from typing import TYPE_CHECKING

from tests.sim.fake_wal import extends

if TYPE_CHECKING:
    from tests.sim.fake_postgres import Server

RECEIVER_TIMEOUT = 10.0
RETRY = 0.1
FAST = 0.005
"""Seconds that WAL, or a reply, is under way at most, where nothing is slow."""


class Link:
    """A walsender and the walreceiver that it feeds."""

    def __init__(self, upstream: "Server", standby: "Server", label: str) -> None:
        self.upstream, self.standby, self.label = upstream, standby, label
        self.world = upstream.world
        self.names = upstream.names
        self.timeline = standby.disk.position.timeline
        """What the walreceiver says that it receives."""
        self.flush = 0
        self.sending = self.receiving = True
        self._turning = False
        self._sent = len(standby.disk.log)
        self._arrives = self._replies = 0.0
        lagging = self.world.chance(self.world.rates.lagging)
        self.slowest = self.world.random.choice((0.05, 0.3, 2.0)) if lagging else FAST
        if lagging:
            self.world.hit("replication lags")

    def begin(self) -> None:
        """Stream, once the end of the timeline so far has been noticed if a newer one follows."""
        self._reply(self.standby.disk.end)
        following = self._following()
        if following > self.timeline:
            self._turning = True
            after = self.world.between(0.0005, 0.05)
            self.world.call(after, self.standby.proc, self._turn, following)
        self.pump()

    def _following(self) -> int:
        mine, theirs = self.standby.disk.log, self.upstream.disk.log
        newest = self.upstream.disk.position.timeline
        return theirs[len(mine)].timeline if len(theirs) > len(mine) else newest

    def _turn(self, timeline: int) -> None:
        if self.receiving:
            self.timeline, self._turning = timeline, False
            self.standby.disk.segment = (timeline, self.standby.disk.end)
            self.pump()

    def pump(self) -> None:
        """Send what was flushed since."""
        if self.sending and not self._turning and len(self.upstream.disk.log) > self._sent:
            self._sent = len(self.upstream.disk.log)
            at = max(self._arrives, self.world.now + self.world.between(0.0002, self.slowest))
            self._arrives = at
            self.world.call(at - self.world.now, self.standby.proc, self._arrive, self._sent)

    def _arrive(self, count: int, flushed: bool = False) -> None:
        if not self.receiving:
            return
        if not self.world.net.open("sql", self.upstream.node.name, self.standby.node.name):
            self.world.call(0.1, self.standby.proc, self._arrive, count, flushed)
            return
        if not flushed and self.standby.node.slow_disk:
            # Written, and lost if the power fails now: it is reported once it is flushed.
            after = self.world.between(0.01, 0.5)
            self.world.call(after, self.standby.proc, self._arrive, count, True)
            return
        log = self.standby.disk.log
        news = self.upstream.disk.log[len(log) : count]
        if not news:
            return
        if not extends(log, self.upstream.disk.log):
            self.close()
            return
        log.extend(news)
        self.timeline = max(self.timeline, news[-1].timeline)
        self.standby.received()
        self._reply(log[-1].lsn)

    def _reply(self, lsn: int) -> None:
        at = max(self._replies, self.world.now + self.world.between(0.0002, self.slowest))
        self._replies = at
        self.world.call(at - self.world.now, self.upstream.proc, self._replied, lsn)

    def _replied(self, lsn: int) -> None:
        if not self.sending:
            return
        if not self.world.net.open("sql", self.standby.node.name, self.upstream.node.name):
            self.world.call(0.1, self.upstream.proc, self._replied, lsn)
            return
        self.flush = max(self.flush, lsn)
        self.upstream.flushed_by(self)

    def close(self, silently: bool = False) -> None:
        """One side ended: the other notices by FIN, or (silently) only by its timeout."""
        after = RECEIVER_TIMEOUT if silently else self.world.between(0.0005, 0.01)
        self.world.call(after, self.upstream.proc, self._sender_ends)
        self.world.call(after, self.standby.proc, self._receiver_ends)

    def end_receiver(self) -> None:
        """The standby's side ends now."""
        self._receiver_ends()
        self.close()

    def _sender_ends(self) -> None:
        self.sending = False
        if self in self.upstream.senders:
            self.upstream.senders.remove(self)

    def _receiver_ends(self) -> None:
        self.receiving = False
        if self.standby.receiver is self:
            self.standby.receiver = None
            self.standby.retry_soon(self.world.between(0.005, RETRY))


class StrayLink(Link):
    """From a successor that the standby is ahead of: its walsender has nothing to send, so it takes
    the standby for one that has caught up, and has flushed what it says that it has replayed."""

    def begin(self) -> None:
        """Reply once, and end when the standby finds that it is past the fork."""
        self.world.hit("a standby past the fork is counted")
        self._reply(self.standby.replayed)
        self.world.call(self.world.between(0.02, 0.5), self.standby.proc, self.close)

    def pump(self) -> None:
        """Send nothing: it is not of the standby's timeline."""
