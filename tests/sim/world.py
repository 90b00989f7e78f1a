"""Virtual time: one heap of events, one source of chance, processes and a network that fail."""

import random
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, TypeVar

from pgregent.core.errors import Refused, Unavailable

T = TypeVar("T")
Work = Generator[Any, Any, Any]
"""What a process does: it yields seconds to sleep, or a Signal to wait for."""


MOST_EVENTS = 2_000_000
"""More than any run has between two looks at how it goes."""
Story = list[tuple[float, str, str]]
"""What happened, for people: when, to whom, what."""


def transcript(story: Story, *who: str) -> str:
    """A story as text; of these only, if any are named."""
    lines = (line for line in story if not who or line[1] in who)
    return "\n".join(f"{at:9.3f} {name:5} {what}" for at, name, what in lines)


class Proc:
    """A process. What is scheduled for a dead one is dropped, for a frozen one held back."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = 0
        self.held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []


class Signal:
    """Fired once, with a value; whoever waits for it goes on."""

    def __init__(self) -> None:
        self.fired = False
        self.value: Any = None
        self._waiting: list[Callable[[Any], None]] = []

    def fire(self, value: Any = None) -> None:
        if not self.fired:
            self.fired, self.value = True, value
            for resume in self._waiting:
                resume(value)

    def wait(self, resume: Callable[[Any], None]) -> None:
        if self.fired:
            resume(self.value)
        else:
            self._waiting.append(resume)


@dataclass
class Rates:
    """How often what goes wrong by itself, as probabilities."""

    effect_fails: float = 0.0
    answer_lost: float = 0.0
    cas_unknown: float = 0.0
    cas_fails: float = 0.0
    message_lost: float = 0.0
    crash_in_step: float = 0.0
    slow: float = 0.0
    reordered: float = 0.0
    """How many records come late, after newer ones (as after a connection was replaced)."""
    lagging: float = 0.0
    """How many of the replication connections are slow ones."""


@dataclass
class Net:
    """Which ways are blocked: (kind, from, to); kinds: "peers", "sql", "dcs"."""

    blocked: set[tuple[str, str, str]] = field(default_factory=set[tuple[str, str, str]])

    def open(self, kind: str, source: str, target: str) -> bool:
        return (kind, source, target) not in self.blocked

    def both(self, kind: str, a: str, b: str) -> bool:
        return self.open(kind, a, b) and self.open(kind, b, a)


class World:
    """Everything that happens, in order."""

    def __init__(self, seed: int | str) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 100.0
        self.rates = Rates()
        self.net = Net()
        self.trace: Story = []
        self.events = 0
        self.struck: Counter[str] = Counter()
        """How often what struck."""
        self.during: Counter[str] = Counter()
        """How often something struck while what was going on."""
        self.phases: Callable[[], Iterable[str]] = tuple
        """What is going on now."""
        self.stop = False
        self._heap: list[tuple[float, int, Proc | None, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def say(self, who: str, what: str) -> None:
        """Keep a line for people."""
        self.trace.append((self.now, who, what))

    def hit(self, name: str) -> None:
        """Count a fault that struck just now."""
        self.struck[name] += 1
        self.during.update(self.phases())

    def call(self, delay: float, proc: Proc | None, fn: Callable[..., Any], *args: Any) -> None:
        """Have `proc` do it in `delay` seconds."""
        self._count += 1
        at = self.now + delay if delay > 0.0 else self.now
        heappush(self._heap, (at, self._count, proc, fn, args))

    def at(self, time: float, fn: Callable[..., Any], *args: Any) -> None:
        """Have it done at this very time, or now if that has passed."""
        self._count += 1
        heappush(self._heap, (max(time, self.now), self._count, None, fn, args))

    def apart(self, seed: int | str, do: Callable[[], T]) -> T:
        """Do it with a source of chance of its own: what it draws changes nothing for the rest."""
        before, self.random = self.random, random.Random(seed)
        try:
            return do()
        finally:
            self.random = before

    def run(self, until: float, done: Callable[[], bool] | None = None) -> bool:
        """Let things happen until the time or until `done`; whether it was done."""
        heap, pop, most = self._heap, heappop, self.events + MOST_EVENTS
        while heap and not self.stop and heap[0][0] <= until:
            self.now, _, proc, fn, args = pop(heap)
            if proc is not None:
                if not proc.alive:
                    continue
                if proc.frozen:
                    proc.held.append((fn, args))
                    continue
            self.events += 1
            if self.events > most:
                raise RuntimeError(f"it goes round in circles at {self.now:.3f}: {fn.__qualname__}")
            fn(*args)
            if done is not None and done():
                return True
        self.now = max(self.now, until)
        return done is not None and done()

    def thaw(self, proc: Proc) -> None:
        """Let a frozen process go on with what was held back, in order."""
        proc.frozen -= 1
        if proc.frozen == 0:
            held, proc.held = proc.held, []
            for fn, args in held:
                self.call(0.0, proc, fn, *args)

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.random.random() < probability

    def between(self, low: float, high: float) -> float:
        """A duration: mostly short; now and then, at the rate `slow`, many times as long."""
        at = self.random.random()
        duration = low + (high - low) * at * at
        slow = self.rates.slow
        return duration * 10 if slow and self.random.random() < slow else duration


class Task:
    """A piece of work under way in a process. Cancelled, it stops at its next yield."""

    def __init__(
        self,
        world: World,
        proc: Proc,
        work: Work,
        done: Callable[[Any, Exception | None], None],
        fails: float = 0.0,
    ) -> None:
        self._world, self._proc, self._work, self._done = world, proc, work, done
        self._fails = fails
        self.cancelled = False
        self._resume(None)

    def cancel(self) -> None:
        self.cancelled = True

    def _resume(self, value: Any) -> None:
        if self.cancelled:
            self._work.close()
            return
        try:
            if self._fails and self._world.random.random() < self._fails:
                given = self._work.throw(Unavailable("postgres", "a fault of the simulator"))
            else:
                given = self._work.send(value)
        except StopIteration as stop:
            self.cancelled = True
            self._done(stop.value, None)
        except (Refused, Unavailable) as error:
            self.cancelled = True
            self._done(None, error)
        else:
            if isinstance(given, Signal):
                given.wait(lambda v: self._world.call(0.0, self._proc, self._resume, v))
            else:
                self._world.call(given, self._proc, self._resume, None)
