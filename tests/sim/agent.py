"""The agent around the real core: agent/loop.py and agent/execute.py in virtual time."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pgregent.core.durability import standby_names, synchronous_standby_names
from pgregent.core.effects import (
    Admit,
    Announce,
    ApplyRule,
    Barrier,
    Checkpoint,
    Clone,
    Deadline,
    Effect,
    Exit,
    Follow,
    Initdb,
    PostgresEffect,
    Probe,
    Promote,
    Publish,
    PutMember,
    Rewind,
    Seal,
    Slots,
    Start,
    Stop,
    WriteRegister,
)
from pgregent.core.errors import Unavailable
from pgregent.core.events import (
    CasAnswer,
    Created,
    DcsFailed,
    DeadlineKept,
    Done,
    Event,
    Failed,
    Observed,
    PeerClosed,
    PeerHeard,
    PostgresExited,
    Probed,
    RegisterRead,
    Tick,
)
from pgregent.core.publish import serving
from pgregent.core.step import step
from pgregent.core.types import Incarnation, Record
from pgregent.core.view import State
from tests.sim.port import Port
from tests.sim.world import Proc, Task, Work

if TYPE_CHECKING:
    from tests.sim.node import Node

TICK = 0.05
READ_EVERY = 1.0
SILENT_AFTER = 0.25


class SimAgent:
    """One life of an agent."""

    def __init__(self, node: "Node") -> None:
        self.node, self.world = node, node.world
        self.proc = Proc(f"{node.name} agent")
        now = node.clock()
        self.state = State.of_new_life(node.settings, node.store, now, node.wall())
        self.port = Port(node)
        self._events: deque[Event] = deque()
        self._pg: Task | None = None
        self._barrier: Task | None = None
        self._put: Task | None = None
        self._to_put: Record | None = None
        self._published: Record | None = None
        self._reading = False
        self._read_again = False
        self._read_timer = self._look_timer = 0
        self._tick()
        self._read()
        self._look(0)
        node.cluster_.dcs.watchers[node.name] = self._watched

    # --- events --------------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        self._events.append(event)
        self.world.call(self.world.random.random() * 0.0005, self.proc, self._handle)

    def _handle(self) -> None:
        event = self._events.popleft()
        node = self.node
        try:
            effects = step(self.state, event, node.clock(), node.wall())
        except Exception as error:
            node.checker.broken(f"{node.name}: the core raised {error!r}")
            return
        if self.state.durable is not node.store:
            if self._crashes():
                return
            if node.slow_disk:
                self._persist_slowly(effects, event)
                return
            self.persist()
            if effects and self._crashes():
                return
        self._go_on(effects, event)

    def persist(self) -> None:
        """What was promised is on disk."""
        self.node.store = self.state.durable

    def _persist_slowly(self, effects: list[Effect], event: Event) -> None:
        """Nothing else happens in this process while it waits for its disk."""
        self.proc.frozen += 1

        def synced() -> None:
            if self.proc.alive:
                self.world.hit("slow disk")
                self.persist()
                self.world.thaw(self.proc)
                self._go_on(effects, event)

        def look() -> None:
            # Frozen as a whole meanwhile: then it goes on when it is thawed.
            if self.proc.frozen > 1 and self.proc.alive:
                self.world.call(0.05, None, look)
            else:
                synced()

        self.world.call(self.world.between(0.01, 3.0), None, look)

    def _go_on(self, effects: list[Effect], event: Event) -> None:
        before = self._published
        self.node.checker.stepped(self.node, self.state)
        for effect in effects:
            self._perform(effect)
        self._published = self.state.published
        if self._published is not before and isinstance(event, PeerHeard):
            self._look_soon()

    def _crashes(self) -> bool:
        """Between a decision, its being on disk, and what follows from it."""
        if self.world.chance(self.world.rates.crash_in_step):
            self.world.hit("an agent crashes between a decision and its disk")
            self.node.kill_agent()
            self.world.call(self.world.between(0.1, 4.0), None, self.node.start_agent)
            return True
        return False

    def server_exited(self, why: str) -> None:
        """The guard says so."""
        self.port.gone()
        if not self.port.stopping:
            self.post(PostgresExited(why))

    def peer_closed(self, name: str, positive: bool) -> None:
        self.post(PeerClosed(name, positive))
        self._look_soon()

    def thawed(self) -> None:
        """After a long sleep every channel turns out to be closed by the peers."""
        for name in self.node.cluster:
            if name != self.node.name and self.world.random.random() < 0.3:
                self.peer_closed(name, True)

    # --- effects -------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        match effect:
            case WriteRegister():
                asked_at = self.node.clock()
                work = self.node.cluster_.dcs.cas(self.node.name, effect)
                self._spawn(work, lambda r, e: self._cas_answered(effect, asked_at, r, e))
            case Barrier():
                if self._barrier is not None:
                    self._barrier.cancel()
                work = self.port.barrier(synchronous_standby_names(effect.rule))
                fails = self.world.rates.effect_fails
                self._barrier = Task(
                    self.world, self.proc, work, lambda r, e: self._answered(effect, r, e), fails
                )
            case Slots(members):
                self._spawn(self.port.keep_slots(members), lambda r, e: None)
            case Probe(name):
                self._spawn(self._probe(name), lambda r, e: self.post(r))
            case Deadline(at):
                number = self.node.starts
                asked_at = self.node.clock()
                self._spawn(
                    self.port.set_deadline(number, at),
                    lambda r, e: None if e else self.post(DeadlineKept(at, asked_at)),
                )
            case Publish(record):
                self.node.cluster_.channel.publish(record)
            case PutMember(record):
                self._to_put = record
                if self._put is None or self._put.cancelled:
                    self._put = self._spawn(self._put_newest(), lambda r, e: None)
            case Announce(event, why, term):
                self.node.say(f"[{event}] {why} (term {term})")
                self.node.checker.announced(self.node, effect)
            case Exit():
                self.node.quit()
            case _:
                self._postgres(effect)

    def _put_newest(self) -> Work:
        while (record := self._to_put) is not None:
            self._to_put = None
            yield from self.node.cluster_.dcs.put(self.node.name, record)

    def _spawn(self, work: Work, done: Callable[[Any, Exception | None], None]) -> Task:
        return Task(self.world, self.proc, work, done)

    def _postgres(self, effect: PostgresEffect) -> None:
        if self._pg is not None:
            self._pg.cancel()
        fails = 0.0 if isinstance(effect, Stop) else self.world.rates.effect_fails
        work = self._carry_out(effect)
        self._pg = Task(
            self.world, self.proc, work, lambda r, e: self._answered(effect, r, e), fails
        )

    def _answered(
        self, effect: PostgresEffect | Barrier, result: Any, error: Exception | None
    ) -> None:
        lost = self.world.chance(self.world.rates.answer_lost)
        if error is not None or lost:
            self.world.hit("an answer is lost" if error is None else "an effect fails")
            looked = None if isinstance(effect, Barrier) else self.port.look()
            self.post(Failed(effect, str(error or "the answer was lost"), looked))
        else:
            told = isinstance(effect, Barrier | Seal | Follow | Promote | ApplyRule | Checkpoint)
            self.post(Done(effect, result, None if told else self.port.look()))

    def _cas_answered(
        self, effect: WriteRegister, asked_at: float, stored: bool | None, error: Exception | None
    ) -> None:
        if error is not None:
            self.post(CasAnswer(effect, False, str(error)))
            return
        if not stored:
            self._read()
        self.post(CasAnswer(effect, stored, "", asked_at))

    def _carry_out(self, effect: PostgresEffect) -> Work:
        port, label = self.port, self.state.me.label
        match effect:
            case Start(_, rule, upstream, deadline):
                names = standby_names() if rule is None else synchronous_standby_names(rule)
                source = self._upstream(upstream) if upstream is not None else None
                yield from port.start(label, names, source, rule is None, deadline)
            case Admit():
                yield from port.admit()
            case Stop(immediate):
                yield from port.stop(immediate)
            case Follow(upstream):
                yield from port.follow(label, standby_names(), self._upstream(upstream))
            case Seal(round_):
                return (yield from port.seal(round_, standby_names()))
            case Promote(term):
                return (yield from port.promote(term, standby_names()))
            case ApplyRule(rule, checkpoint, every):
                yield from port.apply_names(synchronous_standby_names(rule), checkpoint, every)
            case Checkpoint():
                yield from port.checkpoint()
            case Initdb():
                return Created((yield from port.initdb()))
            case Rewind(source):
                yield from port.rewind(self._upstream(source))
            case Clone(source):
                yield from port.clone(self._upstream(source))
        return None

    def _upstream(self, member: Incarnation) -> str:
        peer = self.state.peers.get(member.name)
        if peer is None or peer.record is None:
            raise Unavailable("peer", f"the address of {member.name} is not known yet")
        return member.name

    def _probe(self, name: str) -> Work:
        asked_at = self.node.clock()
        yield self.world.between(0.0005, 0.01)
        server = self.node.cluster[name].server
        reachable = self.world.net.both("sql", self.node.name, name)
        silent = not reachable or (server is not None and (server.proc.frozen or server.hung))
        if silent or self.node.cluster[name].silent:
            yield 0.2
            return Probed(name, False, False, asked_at)
        answers = server is not None and server.answers
        return Probed(name, answers, not answers, asked_at)

    # --- loops ---------------------------------------------------------------------------------

    def _tick(self) -> None:
        self.post(Tick())
        self.world.call(TICK / self.node.clock_rate, self.proc, self._tick)

    def _watched(self) -> None:
        if self.proc.alive:
            self.world.call(self.world.between(0.0005, 0.05), self.proc, self._read)

    def _read(self) -> None:
        if self._reading:
            self._read_again = True
            return
        self._reading, self._read_again = True, False
        asked_at = self.node.clock()
        work = self.node.cluster_.dcs.read(self.node.name)
        self._spawn(work, lambda r, e: self._read_answered(asked_at, r, e))

    def _read_answered(self, asked_at: float, found: Any, error: Exception | None) -> None:
        self._reading = False
        self._read_timer += 1
        if error is not None:
            self.post(DcsFailed(str(error)))
            self.world.call(0.2, self.proc, self._read)
            return
        self.post(RegisterRead(found[0], asked_at, found[1]))
        if self._read_again:
            self._read()
        else:
            wait = min(READ_EVERY, self.state.settings.lease / 3)
            self.world.call(wait, self.proc, self._read_due, self._read_timer)

    @property
    def is_reading(self) -> bool:
        """Whether an answer of the DCS is awaited."""
        return self._reading

    def _read_due(self, timer: int) -> None:
        if timer == self._read_timer:
            self._read()

    def _look_soon(self) -> None:
        self._look_timer += 1
        self.world.call(0.01, self.proc, self._look, self._look_timer)

    def _look(self, timer: int) -> None:
        if timer == self._look_timer and self.node.guard is None:
            self._look_timer += 1
            self._spawn(self.port.connect_guard(), lambda r, e: self._look_soon())
        elif timer == self._look_timer:
            count = self.state.effects_done
            delay = self.world.between(0.001, 0.01)
            self.world.call(delay, self.proc, self._looked, count, self.port.look())
            self._look_timer += 1
            wait = 0.5 if self._settled() else 0.03
            self.world.call(delay + wait, self.proc, self._look, self._look_timer)

    def _looked(self, count: int, postgres: Any) -> None:
        self.post(Observed(postgres, count))

    def _settled(self) -> bool:
        state, register = self.state, self.state.register
        if state.is_primary and register is not None and register.rules:
            heard = (state.peer(m.name).heard_at for m in register.rule.members)
            silent = any(self.node.clock() - at > SILENT_AFTER for at in heard)
            return serving(state) and len(register.rules) == 1 and not silent
        if not state.postgres.streaming or register is None:
            return False
        primary = state.peer(register.primary.name).record
        return primary is not None and primary.serving


class Channel:
    """Records between agents (and to the gates): the latest state, in order, sometimes lost."""

    def __init__(self, cluster: Any) -> None:
        self.cluster, self.world = cluster, cluster.world
        self._latest: dict[tuple[str, str], Record] = {}
        self._arrives: dict[tuple[str, str], float] = {}
        self._retrying: set[tuple[str, str]] = set()

    def publish(self, record: Record) -> None:
        source = record.incarnation.name
        for target in (*self.cluster.nodes, *self.cluster.gates):
            if target != source:
                self._latest[source, target] = record
                if self.world.chance(self.world.rates.message_lost):
                    self.world.hit("a message is lost")
                    continue
                self._send(source, target, record)
                if self.cluster.strikes("a message comes twice"):
                    self._late(source, target, record)

    def _send(self, source: str, target: str, record: Record) -> None:
        key = source, target
        if self.world.chance(self.world.rates.reordered):
            self.world.hit("a message is overtaken")
            self._late(source, target, record)
            return
        at = max(self._arrives.get(key, 0.0), self.world.now + self.world.between(0.0003, 0.006))
        self._arrives[key] = at
        self.world.call(at - self.world.now, None, self._arrive, source, target, record)

    def _late(self, source: str, target: str, record: Record) -> None:
        delay = self.world.between(0.01, 2.0)
        self.world.call(delay, None, self._arrive, source, target, record)

    def _arrive(self, source: str, target: str, record: Record) -> None:
        key = source, target
        if not self.world.net.open("peers", source, target):
            if key not in self._retrying:
                self._retrying.add(key)
                self.world.call(0.1, None, self._retry, source, target)
            return
        if target in self.cluster.gates:
            self.cluster.gates[target].heard(record)
            return
        agent = self.cluster.nodes[target].agent
        if agent is not None:
            self.world.call(0.0, agent.proc, agent.post, PeerHeard(record))

    def _retry(self, source: str, target: str) -> None:
        self._retrying.discard((source, target))
        if self.cluster.nodes[source].agent is not None:
            self._arrive(source, target, self._latest[source, target])

    def closed(self, source: str, silently: bool) -> None:
        """The agent of `source` is gone; the others' kernels say so, if they can be reached."""
        if silently:
            return
        for target, node in self.cluster.nodes.items():
            if target != source and self.world.net.open("peers", source, target) and node.agent:
                at = self._arrives.get((source, target), 0.0)
                delay = max(at - self.world.now, 0.0) + self.world.between(0.0005, 0.005)
                agent = node.agent
                self.world.call(delay, agent.proc, agent.peer_closed, source, True)
