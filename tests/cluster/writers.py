"""Writers: each insert has a key of its own and leaves a record of how it went."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.cluster.checkers import Attempt
from tests.cluster.rawpq import DefiniteError, InDoubtError, Session

ENTRY = "entry"
TABLE = "written"
# No index on the key: a row that is there twice must be seen, not refused.
CREATE = f"CREATE TABLE IF NOT EXISTS {TABLE} (key bigint NOT NULL, path text NOT NULL)"
_INSERT = (
    f"INSERT INTO {TABLE} VALUES ($1, $2)"
    " RETURNING left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"
)
_KEYS_PER_WRITER = 10_000_000
_PAUSE = 0.005


@dataclass(frozen=True, slots=True)
class Pace:
    """Inserts per second of one writer; seconds to wait for a session, for an answer."""

    rate: float = 100.0
    connect_timeout: float = 20.0
    query_timeout: float = 5.0
    pause_when_refused: float = _PAUSE


ENTRY_PACE = Pace()
# A standby refuses each insert: ask it seldom, so that the machine stays free.
DIRECT_PACE = Pace(rate=20.0, connect_timeout=1.0, query_timeout=2.0, pause_when_refused=0.1)


@dataclass(slots=True)
class _Writer:
    number: int
    path: str
    conninfo: str
    pace: Pace
    stop: threading.Event
    history: list[Attempt] = field(default_factory=list[Attempt])
    session: Session | None = None

    def run(self) -> None:
        next_start = time.monotonic()
        while not self.stop.is_set():
            next_start = max(time.monotonic(), next_start + 1 / self.pace.rate)
            if not self.attempt():
                self.stop.wait(self.pace.pause_when_refused)
            self.stop.wait(max(0.0, next_start - time.monotonic()))
        self.close()

    def close(self) -> None:
        if self.session:
            self.session.close()
        self.session = None

    def attempt(self) -> bool:
        key = self.number * _KEYS_PER_WRITER + len(self.history)
        start = time.monotonic()
        try:
            if self.session is None:
                self.session = Session(self.conninfo, self.pace.connect_timeout)
                start = time.monotonic()
            values = (str(key), self.path)
            ((timeline,),) = self.session.execute(_INSERT, values, self.pace.query_timeout)
        except (DefiniteError, InDoubtError) as error:
            outcome = "fail" if isinstance(error, DefiniteError) else "unknown"
            end, detail = time.monotonic(), str(error)
            if outcome == "unknown" or self.path == ENTRY:
                self.close()
            self.history.append(Attempt(key, self.path, start, end, outcome, None, detail))
            return False
        term = int(timeline or "0", 16)
        self.history.append(Attempt(key, self.path, start, time.monotonic(), "ok", term))
        return True


class Writers:
    """Threads that write until stopped: `through_entry` of them by the entry point, as many by each
    of the `others` (further ones), and one straight to each of `nodes`. Use as a context manager;
    `history` is safe to read at any time.
    """

    def __init__(
        self,
        entry: str,
        nodes: Mapping[str, str] | None = None,
        *,
        others: Mapping[str, str] | None = None,
        first_number: int = 0,
        through_entry: int = 4,
        pace: Pace = ENTRY_PACE,
    ) -> None:
        paths = [(ENTRY, entry, pace)] * through_entry
        for name, dsn in (others or {}).items():
            paths += [(name, dsn, pace)] * through_entry
        paths += [(name, dsn, DIRECT_PACE) for name, dsn in (nodes or {}).items()]
        self._stop = threading.Event()
        self._writers = [
            _Writer(first_number + number, path, dsn, pace, self._stop)
            for number, (path, dsn, pace) in enumerate(paths)
        ]
        self.next_number = first_number + len(self._writers)
        self._threads = [threading.Thread(target=w.run, daemon=True) for w in self._writers]

    def __enter__(self) -> "Writers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def history(self) -> list[Attempt]:
        """Return a copy of all records so far."""
        return [attempt for writer in self._writers for attempt in list(writer.history)]

    def stop(self, timeout: float = 30.0) -> None:
        """Let every writer finish its attempt; AssertionError if one does not."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout)
            assert not thread.is_alive(), "a writer did not stop: its own timeouts do not hold"

    def acknowledged_since(self, moment: float, path: str = ENTRY) -> int:
        """Return how many attempts that began after `moment` were acknowledged on `path`."""
        return sum(
            1
            for writer in self._writers
            for a in list(writer.history)
            if a.path == path and a.outcome == "ok" and a.start > moment
        )
