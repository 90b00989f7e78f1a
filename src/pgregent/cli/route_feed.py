"""What agents say, as routes: shared by the gate and by the watch beside HAProxy."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable

from pgregent.adapters.entry.routes import Routes
from pgregent.agent.codec import decode
from pgregent.core.errors import Refused
from pgregent.core.gate import Heard, route
from pgregent.core.types import Record, Register
from pgregent.ports.peers import PeerEvent, PeerMessage

STALE_AFTER = 3.0
LOOK_EVERY = 0.25


class RouteFeed:
    """Turns what agents say into routes."""

    def __init__(self, set_routes: Callable[[Routes], None]) -> None:
        self._set_routes = set_routes
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

    def heard_lately(self) -> frozenset[str]:
        """The members that know a register and spoke lately."""
        now = time.monotonic()
        return frozenset(
            name
            for name, heard in self._heard.items()
            if heard.record.register is not None and now - heard.at <= STALE_AFTER
        )

    def look(self) -> None:
        """Route by what is known now."""
        found = route(self._heard.values(), time.monotonic(), STALE_AFTER, self._newest)
        self._set_routes(
            Routes(
                primary=found.primary,
                term=found.term,
                standbys=found.standbys,
                reason=found.reason,
            )
        )

    async def look_until(self, stop: asyncio.Event) -> None:
        """Look again and again, for what nobody says any more."""
        while not stop.is_set():
            self.look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_EVERY)


def stop_signal() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    return stop
