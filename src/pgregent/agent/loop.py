"""The agent's loop: events in, one step of the core, promises to disk, effects out."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pgregent.agent.codec import decode, encode
from pgregent.agent.execute import Executor
from pgregent.agent.store import Store
from pgregent.core.effects import (
    Announce,
    Barrier,
    Deadline,
    Effect,
    Exit,
    Probe,
    Publish,
    PutMember,
    Slots,
    WriteRegister,
)
from pgregent.core.errors import Refused, Unavailable
from pgregent.core.events import (
    CasAnswer,
    DcsFailed,
    Event,
    Observed,
    PeerClosed,
    PeerHeard,
    PostgresExited,
    RegisterRead,
    Tick,
)
from pgregent.core.publish import serving
from pgregent.core.seen import is_anothers
from pgregent.core.step import step
from pgregent.core.types import Durable, Record, Register
from pgregent.core.view import State
from pgregent.ports import peers as channel
from pgregent.ports.clock import Clock
from pgregent.ports.dcs import CasConflict, CasDone, CasUnknown, Dcs
from pgregent.ports.peers import Peers
from pgregent.ports.postgres import PostgresServer

log = logging.getLogger("pgregent")

TICK = 0.05
READ_EVERY = 1.0
LOOK_SETTLED = 0.5
LOOK_UNSETTLED = 0.03
SILENT_AFTER = 0.25
"""Seconds without a member's heartbeat after which its walsender is looked at more often."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Where the cluster's values are in the DCS."""

    prefix: str

    @property
    def register(self) -> str:
        """The one value that decides."""
        return f"{self.prefix}/register"

    def member(self, name: str) -> str:
        """A member's own key."""
        return f"{self.prefix}/members/{name}"


class Agent:
    """One member. Everything that happens is an event; events are handled one at a time."""

    def __init__(
        self,
        state: State,
        *,
        store: Store,
        server: PostgresServer,
        dcs: Dcs,
        keys: Keys,
        clock: Clock,
        announce: Callable[[Announce], None],
    ) -> None:
        self.state = state
        self._store = store
        self._server = server
        self._dcs = dcs
        self._keys = keys
        self._clock = clock
        self._announce = announce
        self.peers: Peers | None = None
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._executor = Executor(server, clock, self.post, self.records, lambda: state.me)
        self._saved: Durable | None = None
        self._versions: dict[int, int] = {}
        self._look_now = asyncio.Event()
        self._read_now = asyncio.Event()
        self._done = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._cas_tasks: set[asyncio.Task[None]] = set()
        self._put: asyncio.Task[None] | None = None
        self._to_put: Record | None = None
        self._addresses: dict[str, tuple[str, int]] = {}
        self._known: Mapping[str, tuple[str, int]] = {}

    def post(self, event: Event) -> None:
        """Something happened."""
        self._events.put_nowait(event)

    def records(self) -> Mapping[str, Record]:
        """The peers' latest records."""
        return {n: p.record for n, p in self.state.peers.items() if p.record is not None}

    def know_peers(self, peers: Mapping[str, tuple[str, int]]) -> None:
        """Addresses of peers from the configuration; where a peer's own record has one, that."""
        self._known = peers

    def on_peer(self, event: channel.PeerEvent) -> None:
        """What the channel between agents reports."""
        match event:
            case channel.PeerMessage(name, payload):
                with contextlib.suppress(Refused):
                    record = decode(Record, payload, f"a record from {name}")
                    if record.incarnation.name == name:
                        self.post(PeerHeard(record))
            case channel.PeerClosed(name, evidence):
                record = self.records().get(name)
                left = evidence is channel.Evidence.PEER_LEFT and record and record.leaving
                died = evidence is channel.Evidence.PEER_CLOSED
                self.post(PeerClosed(name, bool(left or died)))
                self._look_now.set()
            case channel.PeerConnected():
                pass

    async def run(self) -> None:
        """Until the core says Exit or detach() is called."""
        await self._server.open(lambda why: self.post(PostgresExited(why)))
        self._tasks = [
            asyncio.create_task(work)
            for work in (self._tick(), self._read_loop(), self._watch(), self._look_loop())
        ]
        self._tasks.append(asyncio.create_task(self._handle_events()))
        done = asyncio.create_task(self._done.wait())
        await asyncio.wait([*self._tasks, done], return_when=asyncio.FIRST_COMPLETED)
        done.cancel()
        failed = [t for t in self._tasks if t.done() and not t.cancelled()]
        for task in self._tasks:
            task.cancel()
        await self._executor.close()
        for task in failed:
            task.result()

    def detach(self) -> None:
        """End the agent; guard and PostgreSQL go on."""
        self._done.set()

    async def farewell(self) -> None:
        """Let the last write of the member's key end."""
        if self._put is not None:
            await asyncio.wait([self._put], timeout=1.0)

    # --- the loop ------------------------------------------------------------------------------

    async def _handle_events(self) -> None:
        while True:
            event = await self._events.get()
            effects = step(self.state, event, self._clock.now(), self._clock.epoch())
            if self.state.durable is not self._saved:
                self._persist()
            for effect in effects:
                await self._perform(effect)
            if isinstance(event, PeerHeard) and not self._settled():
                self._look_now.set()

    def _persist(self) -> None:
        """Promises go to disk before anything follows from them; if they cannot, nothing does."""
        try:
            self._store.save(self.state.durable)
        except OSError as error:
            # What the core decided must not be done: the agent ends and starts over from disk.
            raise Unavailable("disk", f"cannot save this member's state: {error}") from error
        self._saved = self.state.durable

    async def _perform(self, effect: Effect) -> None:
        executor = self._executor
        match effect:
            case WriteRegister():
                task = asyncio.create_task(self._write(effect))
                self._cas_tasks.add(task)
                task.add_done_callback(self._cas_tasks.discard)
            case Barrier():
                executor.barrier(effect)
            case Slots():
                executor.slots(effect)
            case Probe():
                executor.probe(effect)
            case Deadline(at):
                executor.deadline(at)
            case Publish(record):
                self._publish(record)
            case PutMember(record):
                self._put_member(record)
            case Announce():
                self._announce(effect)
            case Exit():
                await self._exit()
            case _:
                executor.postgres(effect)

    async def _exit(self) -> None:
        with contextlib.suppress(Unavailable, Refused):
            await self._server.quit()
        self._done.set()

    def _publish(self, record: Record) -> None:
        if self.peers is None:
            return
        self.peers.publish(encode(record))
        found = dict(self._known) | {
            name: address
            for name, r in self.records().items()
            if (address := api_address(r.api_url)) is not None
        }
        if found != self._addresses:
            self._addresses = found
            self.peers.set_peers(found)

    # --- the DCS -------------------------------------------------------------------------------

    def _put_member(self, record: Record) -> None:
        self._to_put = record
        if self._put is None or self._put.done():
            self._put = asyncio.create_task(self._put_newest())

    async def _put_newest(self) -> None:
        while (record := self._to_put) is not None:
            self._to_put = None
            with contextlib.suppress(Unavailable):
                await self._dcs.put(self._keys.member(record.incarnation.name), encode(record))

    async def _write(self, effect: WriteRegister) -> None:
        asked_at = self._clock.now()
        try:
            version = await self._version_of(effect.expected)
            if version is None:
                self.post(CasAnswer(effect, False, "the register has changed"))
                self._read_now.set()
                return
            result = await self._dcs.cas(self._keys.register, version, encode(effect.register))
        except Unavailable as error:
            self.post(CasAnswer(effect, False, str(error)))
            return
        except Exception as error:
            log.exception("a write of the register failed")
            self.post(CasAnswer(effect, None, str(error)))
            return
        match result:
            case CasDone(new_version):
                self._versions = {effect.register.seq: new_version}
                self.post(CasAnswer(effect, True, asked_at=asked_at))
            case CasConflict():
                self._read_now.set()
                self.post(CasAnswer(effect, False, "the register has changed"))
            case CasUnknown(reason):
                self._read_now.set()
                self.post(CasAnswer(effect, None, reason))

    async def _version_of(self, seq: int) -> int | None:
        """The DCS's version of the register with this seq; None if it has another."""
        if seq == 0:
            return 0
        if seq not in self._versions:
            await self._read()
        return self._versions.get(seq)

    async def _read(self) -> None:
        asked_at = self._clock.now()
        values = await self._dcs.read(self._keys.prefix)
        register: Register | None = None
        members: list[Record] = []
        for key, value in values.items():
            try:
                if key == self._keys.register:
                    register = decode(Register, value.value, f"the DCS key {key}")
                    # What another cluster wrote is not written over, whatever its seq.
                    ours = not is_anothers(self.state.register, register)
                    self._versions = {register.seq: value.version} if ours else {}
                elif key != self._keys.member(self.state.me.name):
                    members.append(decode(Record, value.value, f"the DCS key {key}"))
            except Refused as error:
                if key == self._keys.register:
                    raise Unavailable("dcs", str(error)) from error
        self.post(RegisterRead(register, asked_at, tuple(members)))

    async def _read_loop(self) -> None:
        while True:
            self._read_now.clear()
            try:
                await self._read()
            except Unavailable as error:
                self.post(DcsFailed(error.reason))
                await asyncio.sleep(0.2)
            # A read is authority for `lease` seconds: one may be late, or fail, in between.
            wait = min(READ_EVERY, self.state.settings.lease / 3)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._read_now.wait(), wait)

    async def _watch(self) -> None:
        async for _ in self._dcs.watch(self._keys.prefix):
            self._read_now.set()

    # --- looking at the server -----------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            self.post(Tick())
            await asyncio.sleep(TICK)

    async def _look_loop(self) -> None:
        while True:
            self._look_now.clear()
            count = self.state.effects_done
            self.post(Observed(await self._server.observe(), count))
            wait = LOOK_SETTLED if self._settled() else LOOK_UNSETTLED
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look_now.wait(), wait)
            await asyncio.sleep(0.01)

    def _settled(self) -> bool:
        state, register = self.state, self.state.register
        if state.is_primary and register is not None and register.rules:
            heard = (state.peer(m.name).heard_at for m in register.rule.members)
            silent = any(self._clock.now() - at > SILENT_AFTER for at in heard)
            return serving(state) and len(register.rules) == 1 and not silent
        if not state.postgres.streaming or register is None:
            return False
        primary = state.peer(register.primary.name).record
        return primary is not None and primary.serving


def api_address(api_url: str) -> tuple[str, int] | None:
    """Host and port of a member's API address."""
    host, _, port = api_url.partition("//")[2].partition("/")[0].rpartition(":")
    return (host, int(port)) if host and port.isdigit() else None
