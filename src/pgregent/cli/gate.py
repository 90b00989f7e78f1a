"""The gate's process: hears every agent and routes by the newest register."""

import asyncio
import contextlib
import signal
import time

import uvloop

from pgregent.adapters.entry.gate import Gate
from pgregent.adapters.entry.routes import Routes
from pgregent.adapters.peers.auth import derive_key
from pgregent.adapters.peers.channel import PeerChannel
from pgregent.agent.codec import decode
from pgregent.cli.cluster_dir import HOST, ClusterDir
from pgregent.core.errors import Refused
from pgregent.core.gate import Heard, route
from pgregent.core.types import Record, Register
from pgregent.ports.peers import PeerEvent, PeerMessage

STALE_AFTER = 3.0
LOOK_EVERY = 0.25


class RouteFeed:
    """Turns what agents say into the gate's routes."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._heard: dict[str, Heard] = {}
        self._newest: Register | None = None

    def on_peer(self, event: PeerEvent) -> None:
        """A record came, or a channel closed."""
        if isinstance(event, PeerMessage):
            with contextlib.suppress(Refused):
                record = decode(Record, event.payload, f"a record from {event.name}")
                if record.incarnation.name == event.name:
                    self._hear(record, event.received_at)
                    self.look()

    def _hear(self, record: Record, at: float) -> None:
        """Payloads of before this process was frozen come late: an older one changes nothing."""
        name, register = record.incarnation.name, record.register
        before = self._heard.get(name)
        # After some silence even a lower beat counts: its machine's clock may have been set back.
        late = before is not None and record.beat < before.record.beat
        if before is None or not late or at - before.at > STALE_AFTER:
            self._heard[name] = Heard(record, at)
        if register is not None and (self._newest is None or register.seq > self._newest.seq):
            self._newest = register

    def look(self) -> None:
        """Route by what is known now."""
        found = route(self._heard.values(), time.monotonic(), STALE_AFTER, self._newest)
        self._gate.set_routes(
            Routes(
                primary=found.primary,
                term=found.term,
                standbys=found.standbys,
                reason=found.reason,
            )
        )


def run_gate(cluster: ClusterDir) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    return uvloop.run(_run(cluster))


async def _run(cluster: ClusterDir) -> int:
    gate = Gate(hold_timeout=cluster.hold_timeout)
    feed = RouteFeed(gate)
    key = derive_key(cluster.secret("replication"), cluster.scope)
    channel = PeerChannel("gate", key, feed.on_peer, subscriber=True)
    channel.set_peers({n.name: (HOST, n.rest_port) for n in cluster.nodes})
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    await gate.start((HOST, cluster.entry_port), (HOST, cluster.entry_ro_port))
    await channel.start()
    try:
        while not stop.is_set():
            feed.look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_EVERY)
    finally:
        await channel.close()
        await gate.close()
    return 0
