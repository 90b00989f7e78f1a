"""Locks: held by one process, gone with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pgregent.config.lockfile import hold_lock, lock_holder
from pgregent.core.errors import Refused

HOLDER = """
import sys, time
from pathlib import Path
from pgregent.config.lockfile import hold_lock
hold = hold_lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_nobody_holds_a_missing_or_left_behind_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert lock_holder(path) is None
    path.write_text(f"{os.getpid()}\n")
    assert lock_holder(path) is None


def test_the_holder_is_known_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    argv = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            assert lock_holder(path) == holder.pid
            with pytest.raises(Refused, match=f"process {holder.pid} holds"):
                hold_lock(path)
            holder.send_signal(signal.SIGKILL)
            holder.wait(10)
            assert lock_holder(path) is None
            lock = hold_lock(path)
            assert path.read_text() == f"{os.getpid()}\n"
            lock.release()
        finally:
            holder.kill()


def test_a_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    hold_lock(path).release()
    lock = hold_lock(path)
    assert path.stat().st_mode & 0o777 == 0o600
    lock.release()
    assert lock_holder(path) is None
