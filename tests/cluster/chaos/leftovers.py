"""What a run that was killed left behind; and what this machine lacks for a run."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.cluster.chaos.disks import remove_base, thaw_below
from tests.cluster.chaos.net import NETNS, PREFIX, remove_namespaces
from tests.cluster.processes import command_line
from tests.conformance.zookeeper_servers import JAR

TOOLS = {
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "fsfreeze": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "mount": "mount",
    "sysctl": "procps",
    "haproxy": "haproxy",
    "java": "zookeeper",
    "etcd": "etcd-server",
}
"""What a run needs, and Debian's package of it."""


def what_is_missing() -> str:
    """Return why no run is possible on this machine, or ""."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    packages = {package for tool, package in TOOLS.items() if not shutil.which(tool, path=path)}
    packages |= set() if JAR.exists() else {"zookeeper"}
    if packages:
        return f"apt-get install {' '.join(sorted(packages))}"
    return _not_allowed("ip", "netns", "add") or _not_allowed("losetup", "--find")


def _not_allowed(*command: str) -> str:
    probe = f"{PREFIX}-{os.getpid()}-probe"
    arguments = [*command, probe] if command[0] == "ip" else [*command]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"`{' '.join(arguments)}` is not allowed here: {done.stderr.strip()}"
    if command[0] == "ip":
        remove_namespaces([probe])
    return ""


def owner_of(name: str) -> int | None:
    """Return the pid in a name of ours, None where it is not ours."""
    words = name.split("-")
    return int(words[1]) if words[0] == PREFIX and len(words) > 2 and words[1].isdigit() else None


def is_left(name: str) -> bool:
    """Return whether a run of ours made this and is no more."""
    owner = owner_of(name)
    if owner is None or owner == os.getpid():
        return False
    return not any("python" in word for word in command_line(owner)[:1])


def remove_leftovers() -> None:
    """Remove namespaces, mounts and directories of runs that are no more."""
    bases = [p for p in Path(tempfile.gettempdir()).glob(f"{PREFIX}-*") if is_left(p.name)]
    for base in bases:
        # What waits for a frozen file system cannot be killed.
        thaw_below(base)
    names = os.listdir(NETNS) if NETNS.exists() else []
    remove_namespaces(name for name in names if is_left(name))
    for base in bases:
        remove_base(base)
