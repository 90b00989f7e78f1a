"""The DCS: one value by compare-and-swap, the members' keys, and replies that are lost."""

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
        self.lives = 1
        self.watchers: dict[str, Callable[[], None]] = {}

    def _reachable(self, member: str) -> bool:
        return not self.away and self.world.net.open("dcs", member, "dcs")

    def read(self, member: str) -> Work:
        """The register and the members' records; what it returns was true while it was asked."""
        yield self.world.between(0.0005, 0.01)
        if not self._reachable(member):
            yield TIMEOUT if self.world.chance(0.5) else 0.01
            raise Unavailable("dcs", "no reply")
        found = self.register, tuple(r for n, r in self.members.items() if n != member)
        yield self.world.between(0.0005, 0.01)
        if not self.world.net.open("dcs", "dcs", member):
            yield TIMEOUT
            raise Unavailable("dcs", "no reply")
        return found

    def cas(self, member: str, write: WriteRegister) -> Work:
        """True stored, False not, None unknown: it may be stored now, later or never."""
        yield self.world.between(0.0005, 0.01)
        if not self._reachable(member) or self.world.chance(self.world.rates.cas_fails):
            yield self.world.between(0.0, TIMEOUT)
            raise Unavailable("dcs", "refused")
        if self.world.chance(self.world.rates.cas_unknown):
            fate = self.world.random.choice(("now", "later", "never"))
            if fate != "never":
                self.in_flight += 1
                delay = 0.0 if fate == "now" else self.world.between(0.01, 8.0)
                self.world.call(delay, None, self._land, write, self.lives)
            yield self.world.between(0.0, TIMEOUT)
            return None
        stored = self.apply(write)
        yield self.world.between(0.0005, 0.01)
        if not self.world.net.open("dcs", "dcs", member):
            yield TIMEOUT
            return None
        return stored

    def _land(self, write: WriteRegister, life: int) -> None:
        self.in_flight -= 1
        if life == self.lives:
            self.apply(write)

    def apply(self, write: WriteRegister) -> bool:
        if (self.register.seq if self.register else 0) != write.expected:
            return False
        self.checker.registered(self.register, write.register)
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
        if self._reachable(member):
            self.members[member] = record
            self._changed()

    def _changed(self) -> None:
        for member, wake in self.watchers.items():
            if self._reachable(member):
                wake()
