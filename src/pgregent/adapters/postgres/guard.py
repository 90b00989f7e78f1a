"""The guard: the process that owns one PostgreSQL server and stops it when its authority ends.

Run as a script (`python -I -S guard.py --state-dir DIR --data-dir DATA [--user NAME]`); it imports
nothing of pgregent. It is the parent of the postmaster and PR_SET_CHILD_SUBREAPER, so every orphan
of the server becomes its child: a guard without children has no descendants, and waitpid's ECHILD
is the kernel's word for "stopped". It makes no remote call, and while a server runs it touches no
file, so that a frozen disk cannot keep it from the deadline.

Protocol: JSON lines on the Unix socket DIR/guard.sock; the first line of either side is
{"version", "min_version"}. Requests {"id", "command", …} get {"id", "ok": true, …} or
{"id", "error"}; events have "event" and go to every connection. Unknown fields are ignored.
Exit codes: 0 quit, 2 bad usage, 3 another guard holds DIR/guard.lock. Times in seconds; deadlines
on CLOCK_BOOTTIME, which runs on while the machine is suspended.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import pwd
import selectors
import signal
import socket
import sys
import time

TYPE_CHECKING = False  # typing itself would cost half a megabyte
if TYPE_CHECKING:
    from typing import Any, NoReturn

VERSION = 1
MIN_VERSION = 1
LINE_LIMIT_BYTES = 1 << 20  # argv and environment are the largest request
OUTBOX_LIMIT_BYTES = 1 << 18
CONNECTION_LIMIT = 32
WAKE_AT_LEAST_S = 0.25  # select's clock stands still while the machine is suspended
SWEEP_FIRST_S, SWEEP_MAX_S = 0.002, 0.1
LOG_COLLECTOR_GRACE_S = 0.1  # after a clean exit the log collector still writes its last lines
IDLE_QUIT_S = 60.0
TERMINATE_TIMEOUT_S = 60.0
STOP_TIMEOUT_MAX_S = 86400.0
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
FORWARDED_SIGNALS = {"HUP": signal.SIGHUP, "USR1": signal.SIGUSR1}

libc = ctypes.CDLL(None, use_errno=True)


class Problem(Exception):
    """A request that is refused; the text is the answer."""


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def prctl(option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def children_by_task(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:
        pass  # it is gone; its children are the guard's now
    return found


def children_by_stat(pid: int) -> list[int]:
    """For kernels without CONFIG_PROC_CHILDREN."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(name))
    return found


HAS_CHILDREN_FILE = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
children = children_by_task if HAS_CHILDREN_FILE else children_by_stat


def count_descendants() -> int:
    seen: set[int] = set()
    stack = children(os.getpid())
    while stack:
        pid = stack.pop()
        if pid not in seen:
            seen.add(pid)
            stack += children(pid)
    return len(seen)


def kill_descendants() -> None:
    # Parents first, and their children read after the kill: a dying parent reaps nobody, so the
    # numbers read here cannot be handed to strangers meanwhile.
    seen: set[int] = set()
    queue = children(os.getpid())
    while queue:
        pid = queue.pop(0)
        if pid in seen:
            continue
        seen.add(pid)
        # Gone already, or not ours to kill: then the guard never says "empty".
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        queue += children(pid)


def note(number: int, frame: object) -> None:
    """Python writes the number to the wakeup descriptor only if there is a handler."""


class Connection:
    """One client. Nothing here ever blocks; a client that does not read is dropped."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.greeted = False
        self.closed = False

    def receive(self) -> list[bytes]:
        """Whole lines that have arrived; sets `closed` at the end or on a line too long."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.inbox += data
        *lines, rest = bytes(self.inbox).split(b"\n")
        self.inbox[:] = rest
        self.closed = self.closed or not data or len(rest) > LINE_LIMIT_BYTES
        return lines

    def send(self, message: dict[str, Any]) -> None:
        self.outbox += json.dumps(message).encode() + b"\n"
        self.flush()
        self.closed = self.closed or len(self.outbox) > OUTBOX_LIMIT_BYTES

    def flush(self) -> None:
        try:
            while self.outbox and not self.closed:
                del self.outbox[: self.sock.send(self.outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True


def parse(line: bytes) -> dict[str, Any]:
    try:
        message: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Problem(f"not a JSON line: {error}") from None
    kind: Any = message.__class__
    if kind is not dict:
        raise Problem(f"found {kind.__name__}, expected a JSON object")
    return message


def field_text(message: dict[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str) or not value or "\0" in value:
        raise Problem(f"{name}: found {value!r}, expected a text")
    return value


def field_seconds(message: dict[str, Any], name: str, highest: float) -> float:
    value: Any = message.get(name)
    if type(value) not in (int, float) or not 0 <= value <= highest:  # NaN fails this, too
        raise Problem(f"{name}: found {value!r}, expected seconds from 0 to {highest:g}")
    return float(value)


def is_text(value: Any) -> bool:
    return type(value) is str and "\0" not in value


def field_texts(message: dict[str, Any], name: str) -> list[str]:
    values: Any = message.get(name)
    kind: Any = values.__class__
    if kind is not list or not values or not all(map(is_text, values)):
        raise Problem(f"{name}: found {kind.__name__}, expected a list of texts")
    return values


def field_environment(message: dict[str, Any]) -> dict[str, str]:
    values: Any = message.get("env")
    kind: Any = values.__class__
    if kind is not dict or not all(map(is_text, values.values())):
        raise Problem("env: expected an object of texts")  # its content may be secret
    return values


class Account:
    """The operating system's user that PostgreSQL runs as."""

    def __init__(self, name: str) -> None:
        entry = pwd.getpwnam(name)
        self.uid, self.gid = entry.pw_uid, entry.pw_gid
        self.groups = os.getgrouplist(name, entry.pw_gid)

    def assume(self) -> None:
        if os.geteuid() != self.uid:
            os.setgroups(self.groups)
            os.setgid(self.gid)
            os.setuid(self.uid)


class Launch:
    """What to run; the fields of the command `start`."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.argv = field_texts(message, "argv")
        self.env = field_environment(message)
        self.cwd = field_text(message, "cwd")
        self.log_file = field_text(message, "log_file")


def become(launch: Launch, account: Account | None, guard_pid: int, problems: int) -> NoReturn:
    """In the forked child: turn into the postmaster, or say on `problems` why not."""
    step = "signals"
    try:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setsid()
        step = "user"
        if account is not None:
            account.assume()
        step = "parent"
        # A dead guard cannot keep the deadline. Changing the user clears this, so it comes after.
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard_pid:
            os._exit(127)
        step = f"cwd {launch.cwd}"
        os.chdir(launch.cwd)
        step = f"log_file {launch.log_file}"
        # Opened as PostgreSQL's user: that user may own the folder and plant a link there.
        log = os.open(launch.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        step = f"argv {launch.argv[0]}"
        os.execve(launch.argv[0], launch.argv, launch.env)
    except BaseException as error:
        os.write(problems, f"{step}: {error}".encode(errors="replace")[:4096])
    finally:
        os._exit(127)


class Guard:
    def __init__(self, data_dir: str, account: Account | None, listener: socket.socket) -> None:
        self.data_dir = data_dir
        self.account = account
        self.listener = listener
        self.selector = selectors.DefaultSelector()
        self.connections: set[Connection] = set()
        self.wakeup, wakeup_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
        self.start = 0
        self.postmaster: int | None = None
        self.argv: list[str] = []
        self.last: dict[str, Any] | None = None
        self.cause: str | None = None  # why the guard itself ended the running server
        self.empty = True
        self.killing = False
        self.sweep_at = 0.0
        self.sweep_delay_s = SWEEP_FIRST_S
        self.deadline: float | None = None
        self.stop_by: float | None = None
        self.stopping: list[tuple[Connection, Any]] = []  # to be answered when it is empty
        self.starting: tuple[Connection, Any] | None = None  # to be answered after exec
        self.problems: int | None = None  # the pipe that execve closes
        self.quit_when_empty = False
        self.quitting = False
        self.idle_since = boottime()
        self.log_lines: list[str] = []

    # The loop

    def run(self) -> None:
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, note)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
        self.selector.register(self.wakeup, selectors.EVENT_READ, self.on_signals)
        self.log("ready", data_dir=self.data_dir, pid=os.getpid())
        while not self.quitting:
            self.flush_log()
            ready = self.selector.select(self.timeout_s())
            self.enforce()
            self.reap()
            for key, mask in ready:
                if isinstance(key.data, Connection):
                    self.serve(key.data, mask)
                elif key.fd in self.selector.get_map():  # an earlier one may have removed it
                    key.data()
            self.drop_closed()
        self.log("quit")
        self.flush_log()

    def timeout_s(self) -> float | None:
        now = boottime()
        due = [self.sweep_at] if self.killing else []
        if not self.killing:
            due += [at for at in (self.deadline, self.stop_by) if at is not None]
        if due:
            return max(0.0, min(*due, now + WAKE_AT_LEAST_S) - now)
        if self.empty and not self.connections:
            return max(0.0, self.idle_since + IDLE_QUIT_S - now)
        return None

    def enforce(self) -> None:
        """Whatever is due, before any command is looked at."""
        now = boottime()
        if self.killing:
            if now >= self.sweep_at:
                self.sweep()
        elif self.deadline is not None and now >= self.deadline:
            self.kill_all("deadline")
            self.push("deadline", deadline=self.deadline)
        elif self.stop_by is not None and now >= self.stop_by:
            self.kill_all("stop timeout")
        if self.connections or not self.empty:
            self.idle_since = now
        elif now >= self.idle_since + IDLE_QUIT_S:
            self.quitting = True

    def on_signals(self) -> None:
        try:
            numbers = os.read(self.wakeup, 4096)
        except BlockingIOError:
            return
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self.quit_when_empty = True
            self.quitting = self.empty
            self.begin_stop("fast", TERMINATE_TIMEOUT_S)
        # SIGCHLD: every turn of the loop reaps.

    # The server's processes

    def launch(self, launch: Launch) -> None:
        self.log("start", start=self.start + 1, argv=launch.argv)
        self.flush_log()
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        guard_pid = os.getpid()
        try:
            pid = os.fork()
            if pid == 0:
                become(launch, self.account, guard_pid, writer)
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self.start += 1
        self.postmaster, self.argv, self.cause = pid, launch.argv, None
        self.empty = self.killing = False
        self.problems = reader
        self.selector.register(reader, selectors.EVENT_READ, self.on_exec)

    def on_exec(self) -> None:
        """Answer `start` once the child has become the postmaster, or could not."""
        assert self.problems is not None
        try:
            problem = os.read(self.problems, 4096).decode()
        except BlockingIOError:
            return
        self.selector.unregister(self.problems)
        os.close(self.problems)
        self.problems = None
        if self.starting is not None:
            (connection, request), self.starting = self.starting, None
            answer: dict[str, Any] = {"ok": True, "start": self.start, "pid": self.postmaster}
            connection.send({"id": request, **({"error": problem} if problem else answer)})
        if problem:
            self.log("start failed", start=self.start, reason=problem)

    def reap(self) -> None:
        while not self.empty:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.on_empty()
                return
            if pid == 0:
                return
            if pid == self.postmaster:
                self.on_exited(status)

    def on_exited(self, status: int) -> None:
        if self.problems is not None:
            self.on_exec()
        code = os.waitstatus_to_exitcode(status)
        ended = {"code": code, "signal": None} if code >= 0 else {"code": None, "signal": -code}
        self.postmaster = None
        self.last = {"start": self.start, "cause": self.cause, **ended}
        if code == 0 and not self.killing:
            self.killing, self.sweep_at = True, boottime() + LOG_COLLECTOR_GRACE_S
        else:
            self.kill_all(self.cause)
        self.push("exited", cause=self.cause, **ended)

    def on_empty(self) -> None:
        self.empty, self.killing = True, False
        self.deadline = self.stop_by = None
        self.push("empty")
        self.answer_stopping()
        self.quitting = self.quitting or self.quit_when_empty

    def answer_stopping(self) -> None:
        if self.empty:
            stopping, self.stopping = self.stopping, []
            for connection, request in stopping:
                connection.send({"id": request, "ok": True, "stopped": True, "last": self.last})

    def kill_all(self, cause: str | None) -> None:
        if not self.killing:
            self.cause = cause
        self.killing, self.sweep_delay_s = True, SWEEP_FIRST_S
        self.sweep()

    def sweep(self) -> None:
        kill_descendants()
        self.sweep_at = boottime() + self.sweep_delay_s
        self.sweep_delay_s = min(2 * self.sweep_delay_s, SWEEP_MAX_S)

    def begin_stop(self, mode: str, timeout_s: float) -> None:
        if self.empty or self.killing:
            return
        by = boottime() + timeout_s
        self.stop_by = by if self.stop_by is None else min(by, self.stop_by)
        self.cause = f"stop {mode}"
        self.signal_postmaster(STOP_SIGNALS[mode])

    def signal_postmaster(self, number: int) -> None:
        if self.postmaster is None:
            raise Problem("no postmaster runs")
        os.kill(self.postmaster, number)

    # Clients

    def accept(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return
        if len(self.connections) >= CONNECTION_LIMIT:
            sock.close()
            return
        connection = Connection(sock)
        self.connections.add(connection)
        self.selector.register(sock, selectors.EVENT_READ, connection)
        hello = {"version": VERSION, "min_version": MIN_VERSION, "pid": os.getpid()}
        connection.send(hello)

    def serve(self, connection: Connection, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            connection.flush()
        if not mask & selectors.EVENT_READ:
            return
        for line in connection.receive():
            request: Any = None
            try:
                message = parse(line)
                request = message.get("id")
                if connection.greeted:
                    self.enforce()  # an extension that comes too late must not be obeyed
                    self.obey(connection, request, message)
                else:
                    self.greet(connection, message)
            except Exception as error:  # no message may end the guard
                text = str(error) if isinstance(error, Problem | OSError) else repr(error)
                connection.send({"id": request, "error": text})
            if connection.closed:
                return

    def drop_closed(self) -> None:
        for connection in list(self.connections):
            if connection.closed:
                self.connections.remove(connection)
                self.selector.unregister(connection.sock)
                connection.sock.close()
                continue
            write = selectors.EVENT_WRITE if connection.outbox else 0
            mask = selectors.EVENT_READ | write
            if self.selector.get_key(connection.sock).events != mask:
                self.selector.modify(connection.sock, mask, connection)

    def greet(self, connection: Connection, message: dict[str, Any]) -> None:
        newest, oldest = message.get("version"), message.get("min_version")
        if type(newest) is not int or type(oldest) is not int:
            raise Problem("the first line must give version and min_version")
        connection.greeted = oldest <= VERSION and newest >= MIN_VERSION
        if not connection.greeted:
            mine = f"this guard speaks {MIN_VERSION} to {VERSION}"
            connection.send({"error": f"found protocol versions {oldest} to {newest}, {mine}"})
            connection.closed = True

    def push(self, event: str, **fields: Any) -> None:
        message = {"event": event, "start": self.start, **fields}
        for connection in self.connections:
            if connection.greeted:
                connection.send(message)
        self.log(event, start=self.start, **fields)

    # Commands

    def obey(self, connection: Connection, request: Any, message: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"id": request, "ok": True}
        match message.get("command"):
            case "status":
                connection.send(answer | self.status())
            case "start":
                self.command_start(message)
                self.starting = (connection, request)
            case "stop":
                mode = field_text(message, "mode")
                if mode not in STOP_SIGNALS:
                    raise Problem(f"mode: found {mode!r}, expected smart, fast or immediate")
                timeout_s = field_seconds(message, "timeout_s", STOP_TIMEOUT_MAX_S)
                self.stopping.append((connection, request))
                self.begin_stop(mode, timeout_s)
                self.answer_stopping()
            case "kill":
                self.stopping.append((connection, request))
                if not self.empty:
                    self.kill_all("kill")
                self.answer_stopping()
            case "signal":
                name = field_text(message, "name")
                if name not in FORWARDED_SIGNALS:
                    raise Problem(f"name: found {name!r}, expected HUP or USR1")
                self.signal_postmaster(FORWARDED_SIGNALS[name])
                connection.send(answer)
            case "deadline":
                self.command_deadline(message)
                connection.send(answer)
            case "quit":
                if not self.empty:
                    raise Problem("a server still runs; stop it first")
                connection.send(answer)
                self.quitting = True
            case command:
                raise Problem(f"unknown command {command!r}")

    def status(self) -> dict[str, Any]:
        return {
            "guard": os.getpid(),
            "data_dir": self.data_dir,
            "postmaster": self.postmaster,
            "start": self.start,
            "argv": self.argv,
            "last": self.last,
            "deadline": self.deadline,
            "killing": self.killing,
            "descendants": count_descendants(),
        }

    def command_start(self, message: dict[str, Any]) -> None:
        if not self.empty:
            what = f"postmaster {self.postmaster}" if self.postmaster else "what it left behind"
            raise Problem(f"{what} still runs; stop it first")
        if self.quit_when_empty or self.quitting:
            raise Problem("the guard is about to quit")
        launch, deadline = Launch(message), self.deadline_of(message)
        self.launch(launch)
        self.deadline = deadline

    def command_deadline(self, message: dict[str, Any]) -> None:
        start = message.get("start")
        if self.empty or self.killing or start != self.start:
            running = None if self.empty or self.killing else self.start
            raise Problem(f"start: found {start!r}, the server that runs is {running!r}")
        self.deadline = self.deadline_of(message)

    def deadline_of(self, message: dict[str, Any]) -> float | None:
        if message.get("deadline") is None:
            return None
        return field_seconds(message, "deadline", 1e12)

    # Log

    def log(self, event: str, **fields: Any) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {"version": VERSION, "time": now, "event": event, **fields}
        self.log_lines.append(json.dumps(line))
        del self.log_lines[:-100]

    def flush_log(self) -> None:
        """Writes only while nothing runs: a write to a frozen disk does not return."""
        if not self.empty or not self.log_lines:
            return
        text, self.log_lines = "\n".join(self.log_lines) + "\n", []
        with contextlib.suppress(OSError):  # a full disk costs the log, nothing else
            os.write(2, text.encode())


def take_lock(inherited: int | None) -> None:
    """Hold guard.lock until the process ends; the descriptor is never closed."""
    lock = inherited
    if lock is None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open("guard.lock", flags, 0o600)
    os.set_inheritable(lock, False)
    if not os.path.samestat(os.fstat(lock), os.stat("guard.lock")):
        sys.exit(2)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
        where = f"{os.getcwd()}/guard.lock"
        print(f"guard: another guard (pid {holder}) holds {where}", file=sys.stderr)
        sys.exit(3)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def usage(found: str) -> NoReturn:
    expected = "guard.py --state-dir DIR --data-dir DATA [--user NAME] [--lock-fd N]"
    print(f"guard: found {found}, expected {expected}", file=sys.stderr)
    sys.exit(2)


def main(argv: list[str]) -> None:
    options = dict(zip(argv[::2], argv[1::2], strict=False))
    known = {"--state-dir", "--data-dir", "--user", "--lock-fd"}
    if len(argv) % 2 or set(options) - known or not {"--state-dir", "--data-dir"} <= set(options):
        usage(" ".join(argv) or "no arguments")
    data_dir = os.path.abspath(options["--data-dir"])
    try:
        account = Account(options["--user"]) if "--user" in options else None
    except KeyError:
        usage(f"no user {options['--user']!r}")
    if account is not None and os.geteuid() not in (0, account.uid):
        usage(f"--user {options['--user']} without being root")
    os.chdir(options["--state-dir"])  # a relative socket path has no 107 byte limit
    os.umask(0o077)
    if os.getpid() != os.getsid(0):
        os.setsid()
    take_lock(int(options["--lock-fd"]) if "--lock-fd" in options else None)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Memory pressure must not evict the code that keeps the deadline; without the right, go on.
    libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    if os.path.lexists("guard.sock"):
        os.unlink("guard.sock")
    listener.bind("guard.sock")
    os.chmod("guard.sock", 0o600)
    listener.listen(16)
    Guard(data_dir, account, listener).run()


if __name__ == "__main__":
    main(sys.argv[1:])
