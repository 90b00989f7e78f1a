"""TCP ports of this machine: which are free, and who has one that is not."""

import os
import random
import socket
from pathlib import Path

from pgregent.cli.cluster_dir import HOST
from pgregent.core.errors import Refused

# Below the range that the kernel takes outgoing connections' ports from, so that a remembered
# port is not taken by chance while the cluster is down.
_PICK_FROM, _PICK_BELOW = 20000, 32000
_ATTEMPTS = 1000
_LISTEN = "0A"


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            raise Refused(f"no permission to listen on port {port}: choose one over 1023") from None
        except OSError:
            return False
        return True


def pick_free(count: int, taken: set[int]) -> list[int]:
    """Choose free ports, none of them in `taken`."""
    picked: list[int] = []
    for _ in range(_ATTEMPTS):
        if len(picked) == count:
            return picked
        port = random.randrange(_PICK_FROM, _PICK_BELOW)
        if port not in taken and port not in picked and is_free(port):
            picked.append(port)
    raise Refused(f"no {count} free ports between {_PICK_FROM} and {_PICK_BELOW}")


def owner_of(port: int) -> str | None:
    """The process that listens there, as in "process 812 (nginx: master)"; None if not seen."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _holds(entry, wanted):
            return f"process {entry.name} ({command_line(int(entry.name))})"
    return None


def command_line(pid: int) -> str:
    """The process's command line, shortened; "?" if it is gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        text = b" ".join(w for w in words if w).decode(errors="replace")
        return (text or Path(f"/proc/{pid}/comm").read_text().strip())[:80]
    except OSError:
        return "?"


def _listening_inodes(port: int) -> set[str]:
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def _holds(process: Path, wanted: set[str]) -> bool:
    try:
        with os.scandir(process / "fd") as entries:
            return any(os.readlink(entry.path) in wanted for entry in entries)
    except OSError:
        return False
