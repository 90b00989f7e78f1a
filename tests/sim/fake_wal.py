"""What the simulator's PostgreSQL keeps: WAL, its data directory, the configuration file.

WAL is a list of records that are on disk; a follower's log is a prefix of its upstream's or has
diverged.
"""

import bisect
import re
from dataclasses import dataclass, field

from pgregent.core.types import Position

START_LSN = 1000


@dataclass(eq=False, slots=True)
class Wal:
    """One record; its identity is its content. `lsn` is its end."""

    timeline: int
    lsn: int
    write: int | None = None
    """The number of the commit that it is, if it is one."""


@dataclass
class Conf:
    """The configuration file as it is on disk."""

    label: str = ""
    names: str = ""
    upstream: str | None = None
    restore: bool = False
    """Whether a restore_command is set."""


@dataclass
class Disk:
    """A data directory."""

    exists: bool = False
    usable: bool = True
    system_id: str = ""
    log: list[Wal] = field(default_factory=list[Wal])
    histories: dict[int, bool] = field(default_factory=dict[int, bool])
    """Timeline -> whether the history file is a real one (False: a stub)."""
    control_timeline: int = 1
    segment: tuple[int, int] = (0, 0)
    """(timeline, lsn): a segment file of a newer timeline that holds none of its records yet."""
    needed_lsn: int = 0
    """What has to be replayed before it is consistent (after pg_rewind)."""
    foreign: bool = False
    """Somebody promoted it by hand, and it was not made anew since."""
    clean: bool = False
    checkpoint_lsn: int = 0
    slots: set[str] = field(default_factory=set[str])
    conf: Conf = field(default_factory=Conf)
    standby: bool = True

    @property
    def end(self) -> int:
        return self.log[-1].lsn if self.log else START_LSN

    @property
    def position(self) -> Position:
        timeline = self.log[-1].timeline if self.log else 1
        if self.segment[1] == self.end:
            timeline = max(timeline, self.segment[0])
        return Position(timeline, self.end)

    def writes(self) -> set[int]:
        return {r.write for r in self.log if r.write is not None}

    @property
    def newest_real_history(self) -> int:
        return max((n for n, real in self.histories.items() if real), default=1)

    @property
    def has_late_stubs(self) -> bool:
        """Whether recovery looks for a timeline that never was."""
        return max(self.histories, default=1) > self.newest_real_history

    def remove_late_stubs(self) -> None:
        newest = self.newest_real_history
        self.histories = {n: real for n, real in self.histories.items() if n <= newest}


def parse_names(names: str) -> tuple[int, frozenset[str]]:
    """`ANY k ("a", "b")` as (k, labels)."""
    found = re.fullmatch(r"ANY (\d+) \((.*)\)", names)
    if found is None:
        return 0, frozenset()
    return int(found[1]), frozenset(n.strip().strip('"').lower() for n in found[2].split(","))


def holds(log: list[Wal], count: int, record: Wal) -> bool:
    """Whether the first `count` records of a log have this one, and with it all before it."""
    at = bisect.bisect_left(log, record.lsn, 0, count, key=lambda r: r.lsn)
    return at < count and log[at] is record


def has_timeline(log: list[Wal], count: int, timeline: int) -> bool:
    """Whether the first `count` records of a log have some of this timeline."""
    at = bisect.bisect_left(log, timeline, 0, count, key=lambda r: r.timeline)
    return at < count and log[at].timeline == timeline


def extends(shorter: list[Wal], longer: list[Wal]) -> bool:
    """Whether the second log begins with the first (a record's predecessors are always its own)."""
    return not shorter or (len(longer) >= len(shorter) and longer[len(shorter) - 1] is shorter[-1])
