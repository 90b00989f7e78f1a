"""What /proc says about processes: the harness believes it rather than the product."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One live process; zombies are left out. `started` (clock ticks) tells reused pids apart."""

    pid: int
    parent: int
    started: int
    cpu_seconds: float


def wait_for(
    what: str, condition: Callable[[], T | None], *, timeout: float, every: float = 0.05
) -> T:
    """Return the first true result of `condition`; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(every)


def read_process(pid: int) -> Process | None:
    """Return the process, or None where it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    cpu = (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS
    return Process(pid, int(fields[1]), int(fields[19]), cpu)


def alive(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    return read_process(pid) is not None


def all_processes() -> dict[int, Process]:
    """Return every process by pid."""
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    return {found.pid: found for found in map(read_process, pids) if found}


def descendants(root: int) -> set[int]:
    """Return `root`, if alive, and everything below it."""
    processes = all_processes()
    found = {root} & processes.keys()
    while True:
        more = {pid for pid, p in processes.items() if p.parent in found} - found
        if not more:
            return found
        found |= more


def _link(pid: int, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return ""


def command_line(pid: int) -> list[str]:
    """Return the arguments, [] where the process is gone."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="replace").rstrip("\0").split("\0")


def environment(pid: int) -> str:
    """Return the environment at the start of the process, "" where it is gone."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def working_in(directory: Path) -> set[int]:
    """Return the processes whose working directory is `directory`: all of a server, orphans too."""
    path = str(directory.resolve())
    return {pid for pid in all_processes() if _link(pid, "cwd") == path}


def belonging_to(directory: Path) -> set[int]:
    """Return the processes with `directory` in their arguments or working directory."""
    path = str(directory.resolve())

    def belongs(pid: int) -> bool:
        place = _link(pid, "cwd")
        inside = place == path or place.startswith(path + "/")
        return inside or any(path in argument for argument in command_line(pid))

    return {pid for pid in all_processes() if pid != os.getpid() and belongs(pid)}


def titled(pids: Iterable[int], word: str) -> set[int]:
    """Return those of `pids` whose title holds `word` ("walreceiver")."""
    return {pid for pid in pids if word in " ".join(command_line(pid))}


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal each process that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def kill_all_of(directory: Path, timeout: float = 10.0) -> None:
    """SIGKILL until nothing belongs to `directory`; AssertionError if something stays."""

    def empty() -> bool:
        rest = belonging_to(directory)
        send(rest, signal.SIGKILL)
        return not rest

    wait_for(f"no process left of {directory}", empty, timeout=timeout)


def pss_bytes(pid: int) -> int:
    """Return the proportional set size; 0 where the process is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    lines = (line.split() for line in rollup.splitlines())
    return sum(int(words[1]) * 1024 for words in lines if words[0] == "Pss:")
