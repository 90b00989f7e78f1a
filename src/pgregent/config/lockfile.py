"""A lock file that says who holds it: how processes of one directory find each other.

The lock is flock's: the kernel drops it when the process ends in any way, so a file left behind
means nothing. The file holds the owner's pid.
"""

import fcntl
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pgregent.core.errors import Refused

_PATIENCE_S = 0.5
_POLL_S = 0.02


@dataclass(slots=True)
class Lock:
    """A lock that this process holds until `release` or its own end."""

    path: Path
    fd: int

    def release(self) -> None:
        """Let go. The file stays, empty."""
        if self.fd >= 0:
            with suppress(OSError):
                os.ftruncate(self.fd, 0)
            os.close(self.fd)
            self.fd = -1


def hold_lock(path: Path) -> Lock:
    """Take the lock and write this process's pid into the file (0600).

    Raises Refused when another process holds it after 0.5 s: long enough for `lock_holder` of
    somebody else, who looks by trying.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                pid = _pid_in(fd)
                os.close(fd)
                who = f"process {pid}" if pid else "another process"
                raise Refused(
                    f"{who} holds {path}: one of pgregent runs with this directory already; stop "
                    "it, or give this one a directory of its own"
                ) from None
            time.sleep(_POLL_S)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return Lock(path, fd)


def lock_holder(path: Path) -> int | None:
    """The pid of the living process that holds the lock, or None. Waits at most 0.5 s."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                # Held, but perhaps so freshly that the pid is not there yet.
                if (pid := _pid_in(fd)) is not None and _is_alive(pid):
                    return pid
            else:
                return None
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_S)
    finally:
        os.close(fd)


def _pid_in(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _is_alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")
