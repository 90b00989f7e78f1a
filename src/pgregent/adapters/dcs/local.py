"""The DCS of one machine: a SQLite file that all of its agents share.

SQLite blocks, and a locked file or a hung disk blocks for long, so nothing of it runs on the event
loop: reads and writes have one thread with one connection each, and a third thread polls for
changes while somebody watches. A call waits for its answer until a deadline of its own.
"""

import asyncio
import os
import queue
import sqlite3
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from pgregent.core.errors import Refused, Unavailable
from pgregent.ports.dcs import CasConflict, CasDone, CasResult, CasUnknown, Versioned

FORMAT = 1
APPLICATION_ID = 0x70677267
CALL_TIMEOUT_S = 1.2
# A call that waits for a lock gives up this long before its deadline, surely without effect.
LOCK_MARGIN_S = 0.2
LINE_MAX = 32
POLL_S = 0.035
WAL_MAX_BYTES = 4 << 20
CHECKPOINT_LOCK_TIMEOUT_S = 0.1
CHECKPOINT_RETRY_S = 1.0

# AUTOINCREMENT never gives a number twice, so versions do not go back when a row is deleted.
SCHEMA = f"""
    PRAGMA journal_mode = MEMORY;
    PRAGMA synchronous = FULL;
    BEGIN;
    CREATE TABLE entries (
        version INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        value BLOB NOT NULL
    );
    PRAGMA application_id = {APPLICATION_ID};
    PRAGMA user_version = {FORMAT};
    COMMIT;
    PRAGMA journal_mode = WAL;
"""
# "0" is the character after "/".
UNDER = "(key = ?1 OR (key >= ?2 || '/' AND key < ?2 || '0'))"

T = TypeVar("T")


class _Unsure(Exception):
    """Not ended in time, or failed in the middle of a commit: it may still take effect."""


class LocalDcs:
    """The file at one path, open. Create with `open`; end with `close`.

    Every call ends within CALL_TIMEOUT_S (1.2 s), also while the file is locked, full or hung; at
    most LINE_MAX (32) calls of a kind wait at a time, further ones are Unavailable at once.
    A CAS that was answered survives a power cut; a put does with the next CAS.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader, self._writer = _File(path), _File(path)
        self._reads = _Lane("dcs-read", at_end=self._reader.close)
        self._writes = _Lane("dcs-write", at_end=self._writer.close)
        self._watchers: tuple[_Watcher, ...] = ()
        self._closed = False
        self._away = False
        self._poller: Future[None] | None = None

    @classmethod
    async def open(cls, path: Path) -> "LocalDcs":
        """Open the file, create it if it is not there (0600, of the directory's owner if root).

        Raises Refused (no directory, no permission, not a file of ours, of another format) and
        Unavailable("dcs", …) (locked, disk full): worth trying again.
        """
        # SQLite resolves links too, and keeps its log beside the file itself.
        path = Path(os.path.realpath(path))
        dcs = cls(path)
        try:
            await dcs._writes.call(lambda deadline: _create_if_absent(path))
            await dcs._reads.call(dcs._reader.connection)
        except _Unsure as error:
            await dcs.close()
            raise Unavailable("dcs", str(error)) from None
        except BaseException:
            await dcs.close()
            raise
        return dcs

    async def read(self, prefix: str) -> Mapping[str, Versioned]:
        sql = f"SELECT key, value, version FROM entries WHERE {UNDER}"

        def job(connection: sqlite3.Connection, deadline: float) -> dict[str, Versioned]:
            rows = connection.execute(sql, _under(prefix)).fetchall()
            return {key: Versioned(value, version) for key, value, version in rows}

        try:
            return await self._reads.call(lambda deadline: self._reader.use(job, deadline))
        except (_Unsure, Refused, Unavailable) as error:
            # Watchers are told when reading works again.
            self._away = True
            if isinstance(error, Unavailable):
                raise
            raise Unavailable("dcs", str(error)) from None

    async def cas(self, key: str, expected_version: int, value: bytes) -> CasResult:
        try:
            return await self._write(key, expected_version, value)
        except _Unsure as error:
            return CasUnknown(str(error))

    async def put(self, key: str, value: bytes) -> None:
        try:
            await self._write(key, None, value)
        except _Unsure as error:
            raise Unavailable("dcs", str(error)) from None

    async def watch(self, prefix: str) -> AsyncIterator[None]:
        watcher = _Watcher(prefix)
        with suppress(Unavailable):
            watcher.seen = max((v.version for v in (await self.read(prefix)).values()), default=0)
        self._watchers = (*self._watchers, watcher)
        self._start_poller()
        try:
            while not self._closed:
                watcher.changed.clear()
                yield None
                await watcher.changed.wait()
        finally:
            self._watchers = tuple(w for w in self._watchers if w is not watcher)

    async def close(self) -> None:
        self._closed = True
        for watcher in self._watchers:
            watcher.changed.set()
        ends = [self._reads.close(), self._writes.close()]
        if self._poller:
            ends.append(self._poller)
        await asyncio.wait([asyncio.wrap_future(end) for end in ends], timeout=CALL_TIMEOUT_S)

    async def _write(self, key: str, expected_version: int | None, value: bytes) -> CasResult:
        def job(connection: sqlite3.Connection, deadline: float) -> CasResult:
            return _transact(connection, key, expected_version, value, deadline)

        def use(deadline: float) -> CasResult:
            result = self._writer.use(job, deadline)
            self._writer.checkpoint_if_large()
            return result

        try:
            result = await self._writes.call(use)
        except Refused as error:
            raise Unavailable("dcs", str(error)) from None
        if isinstance(result, CasDone):
            for watcher in self._watchers:
                if watcher.covers(key):
                    watcher.saw(result.version)
        return result

    def _start_poller(self) -> None:
        if self._poller is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._poller = _spawn("dcs-poll", lambda: self._poll(loop))

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        file, known = _File(self._path), None
        try:
            while not self._closed:
                # Not Event.wait: that costs more than the rest of the round together.
                time.sleep(POLL_S)
                away, self._away = self._away, False
                try:
                    news = file.use(partial(_news, self._watchers, None if away else known), 0)
                except (sqlite3.Error, OSError, Refused):
                    self._away = True
                    continue
                if news is not None:
                    renewed = known is not None and known.connection is not news[0].connection
                    known, newest = news
                    loop.call_soon_threadsafe(_tell, newest, away or renewed)
        except RuntimeError:
            # The event loop was closed without closing us.
            pass
        finally:
            file.close()


class _Watcher:
    """One `watch`; lives on the event loop, except that the poller reads `prefix`."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.seen = 0
        self.changed = asyncio.Event()

    def covers(self, key: str) -> bool:
        return key == self.prefix or key.startswith(self.prefix.rstrip("/") + "/")

    def saw(self, version: int) -> None:
        if version > self.seen:
            self.seen = version
            self.changed.set()


@dataclass(frozen=True, slots=True)
class _Known:
    """What the poller has told; a data_version is comparable within one connection only."""

    watchers: tuple[_Watcher, ...]
    connection: sqlite3.Connection
    data_version: int


def _news(
    watchers: tuple[_Watcher, ...],
    known: _Known | None,
    connection: sqlite3.Connection,
    deadline: float,
) -> tuple[_Known, dict[_Watcher, int]] | None:
    """Return every watcher's newest version, or None when nothing changed since `known`."""
    data_version = connection.execute("PRAGMA data_version").fetchone()[0]
    now_known = _Known(watchers, connection, data_version)
    if now_known == known:
        return None
    sql = f"SELECT coalesce(max(version), 0) FROM entries WHERE {UNDER}"
    newest = {w: connection.execute(sql, _under(w.prefix)).fetchone()[0] for w in watchers}
    return now_known, newest


def _tell(newest: dict[_Watcher, int], was_away: bool) -> None:
    for watcher, version in newest.items():
        if was_away:
            # It may be another file now, and its versions comparable with nothing.
            watcher.seen = version
            watcher.changed.set()
        else:
            watcher.saw(version)


def _under(prefix: str) -> tuple[str, str]:
    return prefix, prefix.rstrip("/")


def _transact(
    connection: sqlite3.Connection,
    key: str,
    expected_version: int | None,
    value: bytes,
    deadline: float,
) -> CasResult:
    """Store; raises _Unsure from the commit, anything else surely without effect.

    A put is not flushed (the next CAS, or a checkpoint, flushes the log with all before it): it
    holds the write lock for less long, and nobody builds on a put that a power cut took back.
    """
    connection.execute(f"PRAGMA synchronous = {'NORMAL' if expected_version is None else 'FULL'}")
    connection.execute("BEGIN IMMEDIATE")
    row = connection.execute("SELECT version FROM entries WHERE key = ?", (key,)).fetchone()
    if expected_version not in (None, row[0] if row else 0):
        connection.execute("ROLLBACK")
        return CasConflict()
    sql = "INSERT OR REPLACE INTO entries (key, value) VALUES (?, ?)"
    version = connection.execute(sql, (key, value)).lastrowid
    assert version is not None
    if time.monotonic() > deadline:
        connection.execute("ROLLBACK")
        raise Unavailable("dcs", "took too long before the commit")
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        # The log may hold the whole transaction, and a recovery would then bring it back.
        raise _Unsure(f"commit: {error}") from None
    return CasDone(version)


class _File:
    """One thread's connection; made anew after every error and when the file was replaced.

    Without the second, agents would go on with a deleted file beside others with the new one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._wait_s = 0.0
        self._checkpoint_not_before = 0.0

    def use(self, job: Callable[[sqlite3.Connection, float], T], deadline: float) -> T:
        """Run the job with a connection that waits for locks until shortly before the deadline."""
        try:
            return job(self.connection(deadline), deadline)
        except BaseException:
            self.close()
            raise

    def connection(self, deadline: float) -> sqlite3.Connection:
        """Return the connection; raises sqlite3.Error, OSError or Refused."""
        stat = os.stat(self._path)
        wait_s = max(0.0, deadline - LOCK_MARGIN_S - time.monotonic())
        if self._connection is None or self._identity != (stat.st_dev, stat.st_ino):
            self.close()
            self._connection = _connect(self._path, wait_s)
            self._identity = (stat.st_dev, stat.st_ino)
            self._wait_s = wait_s
        elif wait_s != self._wait_s:
            _wait_for_locks(self._connection, wait_s)
            self._wait_s = wait_s
        return self._connection

    def checkpoint_if_large(self) -> None:
        """Empty the log when it is large; a failure is tried again later.

        Not left to SQLite: its automatic checkpoints can race with a writer that restarts the log
        and then lose transactions (fixed in 3.51.3). TRUNCATE holds the write lock.
        """
        now = time.monotonic()
        try:
            size = os.stat(f"{self._path}-wal").st_size
        except OSError:
            return
        if self._connection is None or size < WAL_MAX_BYTES or now < self._checkpoint_not_before:
            return
        self._checkpoint_not_before = now + CHECKPOINT_RETRY_S
        with suppress(sqlite3.Error):
            self._wait_s = CHECKPOINT_LOCK_TIMEOUT_S
            _wait_for_locks(self._connection, self._wait_s)
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


class _Lane:
    """One thread that runs jobs in turn; the line is bounded, and so is every wait for an answer.

    A thread of our own, because the interpreter waits at its end for those of an executor, and a
    hung disk would then keep the process from ending.
    """

    def __init__(self, name: str, at_end: Callable[[], None]) -> None:
        self._line: queue.Queue[Callable[[], None]] = queue.Queue(LINE_MAX)
        self._at_end = at_end
        self._closed = False
        self._ended = _spawn(name, self._main)

    async def call(self, job: Callable[[float], T]) -> T:
        """Run job(deadline in time.monotonic() seconds).

        Raises Unavailable when it surely had no effect, _Unsure when it goes on past the deadline,
        and what the job raises (sqlite3.Error and OSError as Unavailable).
        """
        deadline = time.monotonic() + CALL_TIMEOUT_S
        future: Future[T] = Future()
        if self._closed:
            raise Unavailable("dcs", "closed")
        try:
            self._line.put_nowait(lambda: _run(job, deadline, future))
        except queue.Full:
            raise Unavailable("dcs", f"{LINE_MAX} calls are waiting already") from None
        answer = asyncio.wrap_future(future)
        try:
            await asyncio.wait([answer], timeout=CALL_TIMEOUT_S)
            if answer.done():
                return answer.result()
            if future.cancel():
                raise Unavailable("dcs", f"not begun within {CALL_TIMEOUT_S} s")
            raise _Unsure(f"no answer within {CALL_TIMEOUT_S} s")
        except (sqlite3.Error, OSError) as error:
            raise Unavailable("dcs", str(error)) from None
        finally:
            answer.cancel()

    def close(self) -> "Future[None]":
        """Take no more jobs; the future is done when the thread has ended."""
        self._closed = True
        with suppress(queue.Full):
            self._line.put_nowait(lambda: None)
        return self._ended

    def _main(self) -> None:
        while not (self._closed and self._line.empty()):
            self._line.get()()
        self._at_end()


def _run(job: Callable[[float], T], deadline: float, future: "Future[T]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(job(deadline))
    except BaseException as error:
        future.set_exception(error)


def _spawn(name: str, main: Callable[[], None]) -> "Future[None]":
    ended: Future[None] = Future()
    thread = threading.Thread(target=lambda: _run(lambda _: main(), 0, ended), name=name)
    thread.daemon = True
    thread.start()
    return ended


def _wait_for_locks(connection: sqlite3.Connection, seconds: float) -> None:
    connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")


def _connect(path: Path, wait_s: float) -> sqlite3.Connection:
    uri = f"file:{quote(str(path))}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=wait_s)
    try:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        user_version = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise Refused(
            f"{path} is not a DCS file of pgregent ({error}): move it away or name another file"
        ) from None
    if application_id == APPLICATION_ID and user_version == FORMAT:
        return connection
    connection.close()
    if application_id == APPLICATION_ID:
        raise Refused(
            f"{path} has format {user_version}, this pgregent uses format {FORMAT}: "
            "use the pgregent that made it, or name another file"
        )
    raise Refused(
        f"{path} is not a DCS file of pgregent (a SQLite file of another application, or empty): "
        "move it away or name another file"
    )


def _create_if_absent(path: Path) -> None:
    """Create the file complete: it appears under its name at once or not at all."""
    directory = path.parent
    if not directory.is_dir():
        raise Refused(f"{directory}, the directory of the DCS file, is not there: create it")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise Refused(f"no permission to write in {directory}, where SQLite keeps its log")
    log_exists = os.path.exists(f"{path}-wal")
    if path.exists():
        if not path.is_file():
            raise Refused(f"{path} is not a file: name another path for the DCS file")
        if not os.access(path, os.R_OK | os.W_OK):
            raise Refused(f"no permission to read and write {path}")
        return
    if log_exists:
        raise Refused(
            f"{path}-wal is there without {path.name}: put {path.name} back, or move the log away "
            "(a new file would take the old one's log for its own)"
        )
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=directory)
    try:
        os.close(descriptor)
        if os.geteuid() == 0:
            owner = directory.stat()
            os.chown(name, owner.st_uid, owner.st_gid)
        connection = sqlite3.connect(name, isolation_level=None)
        try:
            connection.executescript(SCHEMA)
        finally:
            connection.close()
        # link, not rename: another agent may have created it meanwhile, and it may be in use.
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)
    _flush_directory(directory)


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
