"""The DCS: one value by compare-and-swap, the members' keys, and replies that are late or lost."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgregent.core.effects import WriteRegister
from pgregent.core.errors import Unavailable
from pgregent.core.types import Record, Register
from tests.sim.world import Work, World

if TYPE_CHECKING:
    from tests.sim.invariants import Checker

TIMEOUT = 1.2


@dataclass
class FakeDcs:
    """Linearizable. Away, it answers nobody; cut off, it does not answer that member."""

    world: World
    checker: "Checker"

    def __post_init__(self) -> None:
        self.register: Register | None = None
        self.members: dict[str, Record] = {}
        self.away = False
        self.in_flight = 0
        self.slow: dict[str, float] = {}
        """Seconds that each way takes at most for this member, beyond what it always does."""
        self.lands_in: float | None = None
        """The next CAS is unknown, and lands in so many seconds."""
        self.past: deque[Register] = deque(maxlen=40)
        """What it held before."""
        self.misled: dict[str, Register] = {}
        """Members that were pointed at the DCS of another cluster, and what that shows."""
        self.lives = 1
        self.watchers: dict[str, Callable[[], None]] = {}

    def _reachable(self, member: str) -> bool:
        return not self.away and self.world.net.open("dcs", member, "dcs")

    def _way(self, member: str) -> float:
        lasts, slow = self.world.between(0.0005, 0.01), self.slow.get(member)
        return lasts + slow * self.world.random.random() if slow else lasts

    def read(self, member: str) -> Work:
        """The register and the members' records; what it returns was true while it was asked."""
        there, back = self._way(member), self._way(member)
        yield min(there, TIMEOUT)
        if there > TIMEOUT or not self._reachable(member):
            yield TIMEOUT if self.world.chance(0.5) else 0.01
            raise Unavailable("dcs", "no reply")
        if member in self.misled:
            return self.misled[member], ()
        found = self.register, tuple(r for n, r in self.members.items() if n != member)
        yield min(back, TIMEOUT)
        if there + back > TIMEOUT or not self.world.net.open("dcs", "dcs", member):
            yield TIMEOUT
            raise Unavailable("dcs", "no reply")
        return found

    def cas(self, member: str, write: WriteRegister) -> Work:
        """True stored, False not, None unknown: it may be stored now, later or never."""
        there, back = self._way(member), self._way(member)
        yield min(there, 0.01)
        if not self._reachable(member) or self.world.chance(self.world.rates.cas_fails):
            self.world.hit("a CAS fails")
            yield self.world.between(0.0, TIMEOUT)
            raise Unavailable("dcs", "refused")
        if member in self.misled:
            # As agent/loop.py: it has no version of what another cluster wrote.
            return False
        if self.lands_in is not None:
            self._send(write, self.lands_in)
            self.lands_in = None
            yield TIMEOUT
            return None
        if there > 0.01:
            return (yield from self._slowly(member, write, there, back))
        if self.world.chance(self.world.rates.cas_unknown):
            self.world.hit("a CAS is unknown")
            fate = self.world.random.choice(("now", "later", "never"))
            if fate != "never":
                self._send(write, 0.0 if fate == "now" else self.world.between(0.01, 8.0))
            yield self.world.between(0.0, TIMEOUT)
            return None
        stored = self.apply(write)
        yield min(back, TIMEOUT)
        if back > TIMEOUT or not self.world.net.open("dcs", "dcs", member):
            yield TIMEOUT
            return None
        return stored

    def _slowly(self, member: str, write: WriteRegister, there: float, back: float) -> Work:
        """It is under way for long: what was sent lands, whether or not anybody waits for it."""
        landed = self._send(write, there)
        yield min(there + back, TIMEOUT)
        if there + back > TIMEOUT or not self.world.net.open("dcs", "dcs", member):
            self.world.hit("a CAS is late")
            return None
        return landed[0] if landed else None

    def _send(self, write: WriteRegister, delay: float) -> list[bool]:
        """Let it land after `delay`, in this life of the DCS; filled then with what came of it."""
        self.in_flight += 1
        landed: list[bool] = []
        self.world.call(delay, None, self._land, write, self.lives, landed)
        return landed

    def _land(self, write: WriteRegister, life: int, landed: list[bool]) -> None:
        self.in_flight -= 1
        if life == self.lives and not self.away:
            landed.append(self.apply(write))

    def apply(self, write: WriteRegister) -> bool:
        if (self.register.seq if self.register else 0) != write.expected:
            return False
        self.checker.registered(self.register, write.register)
        if self.register is not None:
            self.past.append(self.register)
        self.register = write.register
        self._changed()
        return True

    def forget(self, shown: Register | None = None) -> None:
        """It is emptied, or shows an older register again; the members' keys are gone."""
        self.checker.forgets()
        # Sessions and connections end with it, and what was under way in them.
        self.lives += 1
        self.register, self.members = shown, {}
        self._changed()

    def put(self, member: str, record: Record) -> Work:
        yield self.world.between(0.0005, 0.01)
        if self._reachable(member) and member not in self.misled:
            self.members[member] = record
            self._changed()

    def _changed(self) -> None:
        for member, wake in self.watchers.items():
            if self._reachable(member):
                wake()
