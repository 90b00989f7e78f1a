"""Hosts in network namespaces of their own, on one bridge; links that can be cut and made bad.

Addresses are of 192.0.2.0/24, which is for documentation only: nothing leaves this machine.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.processes import alive, send, wait_for

PREFIX = "pgrchaos"
NETNS = Path("/run/netns")
_BRIDGE = "net"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def run(*command: str, stdin: str = "", timeout: float = 20.0) -> str:
    """Run a tool of the system; AssertionError with its message if it fails."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


@dataclass(slots=True)
class Host:
    """One namespace: whom it hears (`deaf_to`: not), and how many percent of it are lost."""

    name: str
    address: str
    namespace: str
    deaf_to: set[str] = field(default_factory=set[str])
    loss: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def prefix(self) -> list[str]:
        """What a command begins with to run there; the process stays the same."""
        return ["nsenter", f"--net={NETNS / self.namespace}"]

    def rules(self, addresses: dict[str, str]) -> str:
        """The firewall as a script for nft: packets that arrive, by who sent them."""
        lines = ["flush chain inet chaos input"]
        add = "add rule inet chaos input ip saddr"
        lines += [f"{add} {addresses[name]} drop" for name in sorted(self.deaf_to)]
        lines += [
            f"{add} {addresses[name]} numgen random mod 100 < {percent} drop"
            for name, percent in sorted(self.loss.items())
        ]
        return "\n".join(lines) + "\n"


_TABLE = """\
table inet chaos {
  chain input {
    type filter hook input priority 0;
  }
}
"""


class Net:
    """The bridge and its hosts. Every change of a link holds when the call returns."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self._bridge = f"{PREFIX}-{os.getpid()}-{_BRIDGE}"

    def __enter__(self) -> "Net":
        run("ip", "netns", "add", self._bridge)
        run("ip", "-n", self._bridge, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self._bridge, "link", "set", "br0", "up")
        return self

    def __exit__(self, *_: object) -> None:
        remove_namespaces([self._bridge, *(host.namespace for host in self.hosts.values())])
        self.hosts.clear()

    def add(self, name: str, number: int) -> Host:
        """Make a host; its address ends in `number`."""
        host = Host(name, f"192.0.2.{number}", f"{PREFIX}-{os.getpid()}-{name}")
        self.hosts[name] = host
        run("ip", "netns", "add", host.namespace)
        run(
            *("ip", "link", "add", "eth0", "netns", host.namespace, "type", "veth"),
            *("peer", "name", name, "netns", self._bridge),
        )
        script = (
            "link set lo up\n"
            f"addr add {host.address}/24 dev eth0\n"
            "link set eth0 up\n"
        )  # fmt: skip
        run("ip", "-n", host.namespace, "-batch", "-", stdin=script)
        run("ip", "-n", self._bridge, "link", "set", "dev", name, "master", "br0", "up")
        self._nft(host, _TABLE)
        return host

    def _nft(self, host: Host, script: str) -> None:
        run(*host.prefix, "nft", "-f", "-", stdin=script)

    def nft(self, name: str, script: str) -> None:
        """Give a host further rules."""
        self._nft(self.hosts[name], script)

    def _apply(self, names: Iterable[str]) -> None:
        addresses = {host.name: host.address for host in self.hosts.values()}
        for name in names:
            self._nft(self.hosts[name], self.hosts[name].rules(addresses))

    def cut(self, sender: str, receiver: str) -> None:
        """One way: `receiver` hears nothing more from `sender`."""
        self.hosts[receiver].deaf_to.add(sender)
        self._apply([receiver])

    def split(self, one: Iterable[str], other: Iterable[str]) -> None:
        """Both ways: nobody of `one` and nobody of `other` hear each other."""
        one, other = list(one), list(other)
        for a in one:
            self.hosts[a].deaf_to.update(other)
        for b in other:
            self.hosts[b].deaf_to.update(one)
        self._apply([*one, *other])

    def lose(self, name: str, percent: int) -> None:
        """Lose so many percent of all packets to and from a host."""
        others = [other for other in self.hosts if other != name]
        for other in others:
            self.hosts[other].loss[name] = percent
            self.hosts[name].loss[other] = percent
        self._apply([name, *others])

    def mend(self) -> None:
        """Every link is whole again."""
        for host in self.hosts.values():
            host.deaf_to.clear()
            host.loss.clear()
        self._apply(self.hosts)

    def processes(self, name: str) -> set[int]:
        """Return every process in the host's namespace."""
        return processes_in(self.hosts[name].namespace)

    @contextmanager
    def delayed(self, name: str, seconds: float) -> Generator[None]:
        """Delay every packet to and from a host by `seconds` each: a program in the middle of its
        cable passes them on (the kernel may have no netem)."""
        ip = ("ip", "-n", self._bridge, "link")
        relay = f"{name}-b"
        run(*ip, "add", f"{name}-a", "type", "veth", "peer", "name", relay)
        run(*ip, "set", "dev", f"{name}-a", "up")
        try:
            run(*ip, "set", "dev", relay, "master", "br0", "up")
            run(*ip, "set", "dev", name, "nomaster")
            with _relay(self._bridge, name, f"{name}-a", seconds):
                yield
        finally:
            run(*ip, "set", "dev", name, "master", "br0")
            run(*ip, "del", relay)


@contextmanager
def _relay(namespace: str, one: str, other: str, seconds: float) -> Generator[None]:
    script = Path(__file__).with_name("slow_cable.py")
    process = subprocess.Popen(
        [
            *("nsenter", f"--net={NETNS / namespace}", sys.executable, "-I", "-S", str(script)),
            *(one, other, str(seconds)),
        ],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n", "the slow cable did not start"
        yield
    finally:
        process.kill()
        process.wait(5)


def enter(host: Host) -> None:
    """Move this thread, and all that it starts from now on, to a host."""
    fd = os.open(NETNS / host.namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(fd)
    finally:
        os.close(fd)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def leave() -> None:
    """Move this thread back to where it was before any `enter`."""
    _setns(_home)


def processes_in(namespace: str) -> set[int]:
    """Return every process in a namespace but this one."""
    try:
        inode = os.stat(NETNS / namespace).st_ino
    except FileNotFoundError:
        return set()
    found: set[int] = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                if os.stat(f"/proc/{entry}/ns/net").st_ino == inode:
                    found.add(int(entry))
            except OSError:
                continue
    return found


def remove_namespaces(namespaces: Iterable[str]) -> None:
    """Kill everything in them, and remove them."""
    namespaces = list(namespaces)

    def empty() -> bool:
        rest = {pid for namespace in namespaces for pid in processes_in(namespace)}
        rest = {pid for pid in rest if alive(pid)}
        send(rest, signal.SIGKILL)
        return not rest

    wait_for("no process left in our namespaces", empty, timeout=20)
    for namespace in namespaces:
        subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
