"""Carries out the core's effects on the ports and reports what became of them."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping

from pgregent.core.durability import standby_names, synchronous_standby_names
from pgregent.core.effects import (
    Admit,
    ApplyRule,
    Barrier,
    Checkpoint,
    Clone,
    Follow,
    Initdb,
    PostgresEffect,
    Probe,
    Promote,
    Rewind,
    Seal,
    Slots,
    Start,
    Stop,
)
from pgregent.core.errors import Refused, Unavailable
from pgregent.core.events import (
    Created,
    DeadlineKept,
    Done,
    Event,
    Failed,
    Probed,
    Promoted,
    Sealed,
)
from pgregent.core.types import Incarnation, Postgres, Record
from pgregent.ports.clock import Clock
from pgregent.ports.postgres import Answer, PostgresServer, Upstream

log = logging.getLogger("pgregent")

Result = Sealed | Promoted | Created | None


class Executor:
    """One PostgreSQL effect at a time: a new one takes the place of one that is still in hand."""

    def __init__(
        self,
        server: PostgresServer,
        clock: Clock,
        post: Callable[[Event], None],
        records: Callable[[], Mapping[str, Record]],
        me: Callable[[], Incarnation],
    ) -> None:
        self._server = server
        self._clock = clock
        self._post = post
        self._records = records
        self._me = me
        self._current: asyncio.Task[None] | None = None
        self._barrier: asyncio.Task[None] | None = None
        self._others: set[asyncio.Task[None]] = set()

    def postgres(self, effect: PostgresEffect) -> None:
        """Begin a PostgreSQL effect."""
        if self._current is not None:
            self._current.cancel()
        self._current = asyncio.create_task(self._run(effect))

    def barrier(self, effect: Barrier) -> None:
        """Begin a barrier; one under an earlier rule is abandoned."""
        if self._barrier is not None:
            self._barrier.cancel()
        self._barrier = asyncio.create_task(self._run_barrier(effect))

    def slots(self, effect: Slots) -> None:
        """Keep slots; the core asks again if it did not work."""
        self._spawn(self._slots(effect))

    def deadline(self, at: float | None) -> None:
        """Tell the guard; the core tells it again when the authority moves."""
        self._spawn(self._deadline(at))

    def probe(self, effect: Probe) -> None:
        """Make a fresh connection to a peer's PostgreSQL."""
        self._spawn(self._probe(effect))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    async def close(self) -> None:
        """Abandon what is in hand."""
        for task in (self._current, self._barrier, *self._others):
            if task is not None:
                task.cancel()

    async def _run(self, effect: PostgresEffect) -> None:
        asked_at = self._clock.now()
        try:
            result = await self._carry_out(effect)
        except Exception as error:
            # Whatever it was, the core has to hear of it: it waits for an answer.
            if not isinstance(error, Refused | Unavailable):
                log.exception("%s failed", type(effect).__name__)
            self._post(Failed(effect, str(error), await self._server.observe()))
            return
        took = self._clock.now() - asked_at
        log.debug("%s took %.0f ms", type(effect).__name__, took * 1000)
        self._post(Done(effect, result, await self._look_after(effect)))

    async def _look_after(self, effect: PostgresEffect) -> Postgres | None:
        """A look where the effect may have changed anything that its result does not tell."""
        if isinstance(effect, Seal | Follow | Promote | ApplyRule | Checkpoint):
            return None
        return await self._server.observe()

    async def _carry_out(self, effect: PostgresEffect) -> Result:
        server, label = self._server, self._me().label
        match effect:
            case Start(term, rule, upstream, deadline):
                names = standby_names() if rule is None else synchronous_standby_names(rule)
                source = self._upstream(upstream) if upstream is not None else None
                await server.start(label, names, source, rule is None, deadline)
                if term == 1 and rule is not None and not (rule.k or rule.strict):
                    await server.ensure_roles()
            case Stop(immediate):
                await server.stop(immediate)
            case Follow(upstream):
                await server.follow(label, standby_names(), self._upstream(upstream))
            case Seal(round_):
                return await server.seal(round_, standby_names())
            case Promote(term):
                return await server.promote(term, standby_names())
            case Admit():
                await server.admit()
            case ApplyRule(rule, checkpoint, every):
                await server.apply_names(synchronous_standby_names(rule), checkpoint, every)
            case Checkpoint():
                await server.checkpoint()
            case Initdb():
                return Created(await server.initdb())
            case Rewind(source):
                await server.rewind(self._upstream(source))
            case Clone(source):
                await server.clone(self._upstream(source))
        return None

    def _upstream(self, member: Incarnation) -> Upstream:
        record = self._records().get(member.name)
        if record is None or not record.host:
            raise Unavailable("peer", f"the address of {member.name} is not known yet")
        return Upstream(member.name, record.host, record.port)

    async def _run_barrier(self, effect: Barrier) -> None:
        asked_at = self._clock.now()
        try:
            await self._server.barrier(synchronous_standby_names(effect.rule))
        except Exception as error:
            if not isinstance(error, Refused | Unavailable):
                log.exception("Barrier failed")
            self._post(Failed(effect, str(error)))
            return
        log.debug("Barrier took %.0f ms", (self._clock.now() - asked_at) * 1000)
        self._post(Done(effect))

    async def _slots(self, effect: Slots) -> None:
        try:
            await self._server.keep_slots(effect.members)
        except Exception as error:
            log.warning("cannot keep the members' slots: %s", error)

    async def _deadline(self, at: float | None) -> None:
        asked_at = self._clock.now()
        try:
            await self._server.set_deadline(at)
            self._post(DeadlineKept(at, asked_at))
        except Exception as error:
            log.warning("cannot tell the guard its deadline: %s", error)

    async def _probe(self, effect: Probe) -> None:
        asked_at = self._clock.now()
        record = self._records().get(effect.name)
        found = Answer.SILENT
        try:
            if record is not None and record.host:
                found = await self._server.probe(record.host, record.port)
        except Exception:
            log.exception("cannot probe %s", effect.name)
        refused = found is Answer.REFUSED
        self._post(Probed(effect.name, found is Answer.ANSWERED, refused, asked_at))
