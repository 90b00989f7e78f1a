"""The agent's side of the guard: connect to it or start one, ask it, hear its events.

Only local calls, all bounded in time. Every failure is Unavailable("guard", reason), except for a
guard of an incompatible version, which is Refused. A call that timed out may still be carried out:
ask status() before acting on it. Deadlines are seconds on CLOCK_BOOTTIME.
"""

import asyncio
import contextlib
import errno
import fcntl
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pgregent.core.errors import Refused, Unavailable

VERSION = 1
MIN_VERSION = 1
GUARD_ENV = ("PATH", "LD_LIBRARY_PATH", "LANG")  # the rest may hold passwords
GUARD_SCRIPT = Path(__file__).with_name("guard.py")
LINE_LIMIT_BYTES = 1 << 20
CALL_TIMEOUT_S = 5.0
EMPTY_TIMEOUT_S = 10.0
RETRY_S = 0.02
REAP_S = 0.5

StopMode = Literal["smart", "fast", "immediate"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a postmaster ended: exit code or signal; `cause` says why the guard ended it, if it did
    ("deadline", "kill", "stop fast", "stop timeout")."""

    start: int
    code: int | None
    signal: int | None
    cause: str | None


@dataclass(frozen=True, slots=True)
class Exited:
    """The postmaster is reaped; what it left behind is being killed."""

    ended: Ended


@dataclass(frozen=True, slots=True)
class Emptied:
    """Nothing is left of the server of this start: it is stopped."""

    start: int


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The authority ended; everything has been sent SIGKILL."""

    start: int


@dataclass(frozen=True, slots=True)
class GuardLost:
    """The connection ended: the guard is dead or has dropped this client."""

    reason: str


GuardEvent = Exited | Emptied | DeadlinePassed | GuardLost


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """`start` counts the servers this guard started (0: none); `descendants` 0 means stopped."""

    guard: int
    data_dir: str
    postmaster: int | None
    start: int
    argv: tuple[str, ...]
    last: Ended | None
    deadline: float | None
    descendants: int


@dataclass(frozen=True, slots=True)
class Started:
    """`start` names this server in deadline()."""

    start: int
    pid: int


def _ended(fields: Mapping[str, Any]) -> Ended:
    return Ended(fields["start"], fields["code"], fields["signal"], fields.get("cause"))


def _event(message: Mapping[str, Any]) -> GuardEvent | None:
    match message["event"]:
        case "exited":
            return Exited(_ended(message))
        case "empty":
            return Emptied(message["start"])
        case "deadline":
            return DeadlinePassed(message["start"])
        case _:
            return None  # of a newer guard


def _ignore(event: GuardEvent) -> None:
    pass


class Guard:
    """A connection to a running guard. `on_event` runs in the event loop and must not block.

    `closed` is set when the connection has ended, after GuardLost (never after close()).
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_event: Callable[[GuardEvent], None],
    ) -> None:
        self.pid = 0
        self.closed = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._on_event = on_event
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        state_dir: Path,
        on_event: Callable[[GuardEvent], None] = _ignore,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> "Guard":
        """Connect to the guard of `state_dir`; none is started."""
        try:
            directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY)
            try:  # by way of /proc, because a socket path longer than 107 bytes is not possible
                path = f"/proc/self/fd/{directory}/guard.sock"
                opening = asyncio.open_unix_connection(path, limit=LINE_LIMIT_BYTES)
                reader, writer = await asyncio.wait_for(opening, timeout_s)
            finally:
                os.close(directory)
        except (OSError, TimeoutError) as error:
            raise Unavailable("guard", f"{state_dir}/guard.sock: {error or 'timeout'}") from error
        guard = cls(reader, writer, on_event)
        try:
            await asyncio.wait_for(guard._greet(), timeout_s)
        except (OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
            writer.close()
            reason = str(error) or f"no greeting within {timeout_s:g} s; is it stopped?"
            raise Unavailable("guard", f"{state_dir}/guard.sock: {reason}") from error
        except BaseException:
            writer.close()
            raise
        guard._task = asyncio.create_task(guard._read())
        return guard

    @classmethod
    async def connect_or_spawn(
        cls,
        state_dir: Path,
        data_dir: Path,
        *,
        user: str | None = None,
        on_event: Callable[[GuardEvent], None] = _ignore,
        timeout_s: float = 30.0,
    ) -> "Guard":
        """Connect to the guard of `state_dir`, which must exist; without one, first empty the data
        directory of every process, then start one that outlives this process.

        `user` runs PostgreSQL (root only). Raises Unavailable, also when a guard holds the lock
        but does not answer within `timeout_s`: only SIGKILL to it ends that.
        """
        give_up = time.monotonic() + timeout_s
        process: subprocess.Popen[bytes] | None = None
        while True:
            _reap_spawned()
            try:
                wait_s = min(CALL_TIMEOUT_S, max(0.1, give_up - time.monotonic()))
                return await cls.connect(state_dir, on_event, wait_s)
            except Unavailable as error:
                problem = error.reason
            if process is not None and process.poll() is not None:
                raise Unavailable("guard", _death(state_dir, process.returncode))
            if process is None and (lock := _take_lock(state_dir)) is not None:
                # The lock goes over to the guard without a gap: nobody can start a server here
                # between the emptying and the guard.
                try:
                    await empty_data_directory(data_dir)
                    process = _spawn(state_dir, data_dir, user, lock)
                finally:
                    os.close(lock)
            if time.monotonic() >= give_up:
                raise Unavailable("guard", f"{_holder(state_dir)} does not answer: {problem}")
            await asyncio.sleep(RETRY_S)

    async def status(self) -> GuardStatus:
        """What runs, and how the last server ended."""
        answer = await self._ask("status", {})
        last = answer["last"]
        return GuardStatus(
            guard=answer["guard"],
            data_dir=answer["data_dir"],
            postmaster=answer["postmaster"],
            start=answer["start"],
            argv=tuple(answer["argv"]),
            last=None if last is None else _ended(last),
            deadline=answer["deadline"],
            descendants=answer["descendants"],
        )

    async def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log_file: Path,
        deadline: float | None = None,
    ) -> Started:
        """Start the postmaster (argv[0]: its full path); `env` is its whole environment.

        Returns when it has been executed, not when it accepts connections. Standard output and
        error are appended to `log_file`, opened as PostgreSQL's user. Refused while anything of
        the server before is left.
        """
        fields = {"argv": list(argv), "env": dict(env), "cwd": str(cwd), "log_file": str(log_file)}
        answer = await self._ask("start", {**fields, "deadline": deadline})
        return Started(answer["start"], answer["pid"])

    async def stop(self, mode: StopMode, timeout_s: float) -> Ended | None:
        """Shut down in `mode`; after `timeout_s` (0 to 86400) kill. Returns when nothing is left:
        how the last server ended, None if this guard never had one."""
        return await self._stopped("stop", {"mode": mode, "timeout_s": timeout_s}, timeout_s)

    async def kill(self) -> Ended | None:
        """Kill everything now. Returns when nothing is left."""
        return await self._stopped("kill", {}, 0.0)

    async def signal(self, name: Literal["HUP", "USR1"]) -> None:
        """Send the postmaster a signal (HUP: reload, USR1: look for promote.signal)."""
        await self._ask("signal", {"name": name})

    async def deadline(self, start: int, boottime: float | None) -> None:
        """Kill everything at `boottime` (seconds on CLOCK_BOOTTIME; None: never).

        Fails unless the server that runs is the one of `start`: a deadline that has passed, or
        another server, is not to be extended.
        """
        await self._ask("deadline", {"start": start, "deadline": boottime})

    async def quit(self) -> None:
        """End the guard; only when nothing runs."""
        await self._ask("quit", {})

    async def close(self) -> None:
        """End this connection; guard and server go on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._writer.close()

    async def _greet(self) -> None:
        hello = {"version": VERSION, "min_version": MIN_VERSION}
        self._writer.write(json.dumps(hello).encode() + b"\n")
        theirs = json.loads(await self._reader.readline() or b"null")
        if theirs is None:
            raise ValueError("it closed the connection")
        newest, oldest = theirs["version"], theirs["min_version"]
        if oldest > VERSION or newest < MIN_VERSION:
            raise Refused(
                f"the guard (pid {theirs['pid']}) speaks protocol versions {oldest} to {newest}, "
                f"this pgregent {MIN_VERSION} to {VERSION}: stop the server with the pgregent that "
                "started it"
            )
        self.pid = theirs["pid"]

    async def _read(self) -> None:
        reason = "the guard closed the connection"
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                if "event" in message:
                    if (event := _event(message)) is not None:
                        # Not called from here: its exceptions are not this task's.
                        asyncio.get_running_loop().call_soon(self._on_event, event)
                elif (answer := self._answers.pop(message.get("id"), None)) is not None:
                    answer.set_result(message)
        except (OSError, ValueError) as error:
            reason = str(error)
        self._writer.close()
        for answer in self._answers.values():
            answer.cancel()
        self._answers.clear()
        loop = asyncio.get_running_loop()
        loop.call_soon(self._on_event, GuardLost(reason))
        loop.call_soon(self.closed.set)
        loop.call_later(REAP_S, _reap_spawned)

    async def _ask(
        self, command: str, fields: Mapping[str, Any], wait_s: float = CALL_TIMEOUT_S
    ) -> dict[str, Any]:
        if self._task is None or self._task.done():
            raise Unavailable("guard", "the connection is closed")
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        request = {"id": number, "command": command, **fields}
        self._writer.write(json.dumps(request).encode() + b"\n")
        try:
            await asyncio.wait([answer], timeout=wait_s)
            if answer.cancelled():
                raise Unavailable("guard", f"{command}: the guard died")
            if not answer.done():
                raise Unavailable("guard", f"{command}: no answer within {wait_s:g} s")
        finally:
            self._answers.pop(number, None)
        message = answer.result()
        if "error" in message:
            raise Unavailable("guard", f"{command}: {message['error']}")
        return message

    async def _stopped(
        self, command: str, fields: Mapping[str, Any], timeout_s: float
    ) -> Ended | None:
        answer = await self._ask(command, fields, timeout_s + EMPTY_TIMEOUT_S)
        return None if answer["last"] is None else _ended(answer["last"])


def _take_lock(state_dir: Path) -> int | None:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        lock = os.open(state_dir / "guard.lock", flags, 0o600)
    except OSError as error:
        raise Unavailable("guard", f"{state_dir}/guard.lock: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def guard_runs(state_dir: Path) -> bool:
    """Whether a guard of `state_dir` lives, or is being started."""
    try:
        lock = os.open(state_dir / "guard.lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _holder(state_dir: Path) -> str:
    with contextlib.suppress(OSError):
        return f"guard (pid {(state_dir / 'guard.lock').read_text().strip() or 'unknown'})"
    return "guard"


def _death(state_dir: Path, code: int) -> str:
    with contextlib.suppress(OSError):
        lines = (state_dir / "guard.log").read_text(errors="replace").splitlines()
        return f"ended at once with exit code {code}: {lines[-1] if lines else 'no message'}"
    return f"ended at once with exit code {code}"


PID_FILE_COPY = "postmaster.pid"
_spawned: "list[subprocess.Popen[bytes]]" = []


def _reap_spawned() -> None:
    _spawned[:] = [process for process in _spawned if process.poll() is None]


def _spawn(
    state_dir: Path, data_dir: Path, user: str | None, lock: int
) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-I", "-S", str(GUARD_SCRIPT)]
    command += ["--state-dir", str(state_dir.absolute()), "--data-dir", str(data_dir.absolute())]
    command += ["--lock-fd", str(lock)] + (["--user", user] if user is not None else [])
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        log = os.open(state_dir / "guard.log", flags, 0o600)
        try:
            process = subprocess.Popen(
                command,
                env={name: os.environ[name] for name in GUARD_ENV if name in os.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=state_dir,
                start_new_session=True,
                pass_fds=(lock,),
            )
        finally:
            os.close(log)
    except OSError as error:
        raise Unavailable("guard", f"cannot be started: {error}") from error
    _spawned.append(process)
    return process


# A data directory whose guard died


async def empty_data_directory(data_dir: Path, timeout_s: float = EMPTY_TIMEOUT_S) -> int:
    """Kill every process of `data_dir` until none is left; returns how many. Removes no file.

    Those are the ones that work in it, those attached to its shared memory, and the descendants
    of both; not a person's shell there (it has a terminal), nor this process and its ancestors.
    Raises Unavailable when some cannot be killed within `timeout_s` or their absence cannot be
    proved.
    """
    work = asyncio.ensure_future(asyncio.to_thread(_empty, data_dir, timeout_s))
    # /proc can hang with the disk that a process works in: abandon, do not await, the thread.
    await asyncio.wait([work], timeout=timeout_s + 1.0)
    if not work.done():
        raise Unavailable("guard", f"{data_dir}: processes cannot be listed, /proc hangs")
    return work.result()


@dataclass(frozen=True, slots=True)
class _Process:
    state: str
    parent: int
    terminal: int
    born: int


def _empty(data_dir: Path, timeout_s: float) -> int:
    try:
        directory = data_dir.stat()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise Unavailable("guard", f"{data_dir}: {error.strerror}") from error
    if os.geteuid() not in (0, directory.st_uid):
        owner = f"it belongs to uid {directory.st_uid}"
        raise Unavailable("guard", f"{data_dir}: {owner}, whose processes cannot be seen")
    give_up = time.monotonic() + timeout_s
    killed: set[int] = set()
    clean = 0
    while clean < 2:  # one look can miss a process that is forked while it goes on
        victims = _victims(data_dir, directory)
        for pid, seen in victims.items():
            _kill(pid, seen)
        killed |= victims.keys()
        for pid in killed:
            with contextlib.suppress(OSError):  # ours when this process is init or a subreaper
                os.waitpid(pid, os.WNOHANG)
        problem = _remains(data_dir, victims)
        clean = clean + 1 if problem is None else 0
        if problem is not None and time.monotonic() >= give_up:
            raise Unavailable("guard", f"{data_dir} is not empty: {problem}")
        time.sleep(0 if clean else 0.01)
    return len(killed)


def _kill(pid: int, seen: _Process) -> None:
    process = _process(pid)
    if process is not None and process.born == seen.born:  # else a stranger has the number now
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _remains(data_dir: Path, victims: Mapping[int, _Process]) -> str | None:
    if victims:
        return f"processes {sorted(victims)} do not die"
    pid, segment = _pid_file(data_dir)
    process = None if pid is None else _process(pid)
    if process is not None and process.state == "Z":
        # PostgreSQL takes the dead number for a running postmaster and does not start.
        return f"process {pid} is dead, but its parent {process.parent} does not reap it"
    if segment is not None and (attached := _attached_count(segment)) > 0:
        return f"{attached} processes are attached to its shared memory {segment}"
    return None


def _victims(data_dir: Path, directory: os.stat_result) -> dict[int, _Process]:
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    processes = {pid: process for pid in pids if (process := _process(pid)) is not None}
    spared, ancestor = {os.getpid()}, os.getppid()
    while ancestor in processes:
        spared.add(ancestor)
        ancestor = processes[ancestor].parent
    living = {
        pid: process
        for pid, process in processes.items()
        if pid not in spared and process.state not in "ZX"
    }
    _, segment = _pid_file(data_dir)
    if segment is not None and _attached_count(segment) == 0:
        segment = None
    victims = {
        pid: process
        for pid, process in living.items()
        if _belongs(pid, process, directory, segment)
    }
    while more := {i: p for i, p in living.items() if p.parent in victims and i not in victims}:
        victims |= more
    return victims


def _process(pid: int) -> _Process | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return _Process(fields[0], int(fields[1]), int(fields[4]), int(fields[19]))


def _belongs(pid: int, process: _Process, directory: os.stat_result, segment: int | None) -> bool:
    proc = Path(f"/proc/{pid}")
    try:
        if proc.stat().st_uid != directory.st_uid:
            return False  # PostgreSQL runs only as the owner of its data directory
        if os.path.samestat((proc / "cwd").stat(), directory):
            program = os.readlink(proc / "exe").rpartition("/")[2].removesuffix(" (deleted)")
            return process.terminal == 0 or program in ("postgres", "postmaster")
        if segment is None:
            return False
        maps = (proc / "maps").read_text(errors="replace")
        return re.search(rf" {segment} +/SYSV[0-9a-f]{{8}}", maps) is not None
    except OSError:
        return False  # gone meanwhile


def remember_pid_file(data_dir: Path, state_dir: Path, postmaster: int) -> None:
    """Keep which postmaster.pid the guard's own server `postmaster` wrote; one of another server,
    which keeps ours from starting, is not ours. Raises OSError, as when none is there yet."""
    head = _pid_file_head(data_dir)
    if head.partition(b"\n")[0].strip() == b"%d" % postmaster:
        (state_dir / PID_FILE_COPY).write_bytes(head)


def foreign_postmaster(data_dir: Path, state_dir: Path) -> int | None:
    """The postmaster that works in `data_dir` and that no guard of `state_dir` has started; None
    where there is none, or a guard is there. Raises Unavailable."""
    if guard_runs(state_dir) or (pid := postmaster_of(data_dir)) is None:
        return None
    try:
        ours = (state_dir / PID_FILE_COPY).read_bytes() == _pid_file_head(data_dir)
    except OSError:
        return pid if postmaster_of(data_dir) == pid else None
    return None if ours else pid


def postmaster_of(data_dir: Path) -> int | None:
    """The postmaster that works in `data_dir`, whoever has started it. Raises Unavailable."""
    pid, _ = _pid_file(data_dir)
    try:
        works_here = os.path.samestat(Path(f"/proc/{pid}/cwd").stat(), data_dir.stat())
    except OSError:
        return None
    return pid if works_here else None


def remove_stale_pid_file(data_dir: Path, state_dir: Path) -> None:
    """Remove a postmaster.pid that the guard's own server left, when nothing of that server lives
    and its number belongs to another process now. Raises Unavailable.

    PostgreSQL would take that process for a running postmaster: in a container that was started
    again the few numbers repeat. One that somebody else's server wrote is left alone: it may run
    where its processes cannot be seen from here.
    """
    pid, segment = _pid_file(data_dir)
    process = None if pid is None else _process(pid)
    if process is None or (segment is not None and _attached_count(segment) > 0):
        return
    try:
        ours = (state_dir / PID_FILE_COPY).read_bytes() == _pid_file_head(data_dir)
        works_here = os.path.samestat(Path(f"/proc/{pid}/cwd").stat(), data_dir.stat())
        if ours and not works_here:
            (data_dir / "postmaster.pid").unlink()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH, errno.EACCES):
            raise Unavailable("guard", f"{data_dir}/postmaster.pid: {error.strerror}") from error


def children_titled(postmaster: int, title: bytes) -> list[int]:
    """The pids of the postmaster's children whose process title begins with `title`."""
    found: list[int] = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        process = _process(pid)
        with contextlib.suppress(OSError):
            is_child = process is not None and process.parent == postmaster
            if is_child and Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title):
                found.append(pid)
    return found


def _pid_file_head(data_dir: Path) -> bytes:
    """Its pid, directory and start time; empty while it is being written."""
    lines = (data_dir / "postmaster.pid").read_bytes().splitlines(keepends=True)[:3]
    return b"".join(lines) if len(lines) == 3 else b""


def _pid_file(data_dir: Path) -> tuple[int | None, int | None]:
    """The postmaster's pid and shared memory id, as far as postmaster.pid has them."""
    try:
        lines = (data_dir / "postmaster.pid").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return None, None
    except OSError as error:
        raise Unavailable("guard", f"{data_dir}/postmaster.pid: {error.strerror}") from error
    pid = lines[0].strip() if lines else ""
    segment = lines[6].split()[-1:] if len(lines) > 6 else []
    return (
        int(pid) if pid.isdigit() else None,
        int(segment[0]) if segment and segment[0].isdigit() else None,
    )


def _attached_count(segment: int) -> int:
    try:
        rows = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    except OSError:
        return 0  # a kernel without System V shared memory
    return sum(int(row[6]) for row in map(str.split, rows) if int(row[1]) == segment)
