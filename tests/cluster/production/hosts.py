"""Hosts with systemd as their init, on one network: each in namespaces of its own, on a root of its
own, so that an administrator's commands run as they are written and change nothing of this machine.
See host.sh.
"""

import os
import subprocess
import sysconfig
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.cluster.chaos import leftovers, net
from tests.cluster.chaos.disks import make_base, remove_base
from tests.cluster.processes import alive, wait_for
from tests.cluster.production.disk import (
    CHECKOUT,
    PYTHON,
    ROOT,
    install,
    make_disk,
    why_not_installable,
)

CLIENT = "client"
_SCRIPT = Path(__file__).with_name("host.sh")
_SYSTEMD = Path("/lib/systemd/systemd")
# What apt-get installs on the page, and what makes a host.
_NEEDED = {
    "/usr/lib/postgresql/15/bin/postgres": "postgresql-15",
    "/usr/share/java/zookeeper.jar": "zookeeper",
    "/usr/bin/java": "zookeeper",
    "/usr/sbin/haproxy": "haproxy",
    "/usr/bin/curl": "curl",
    "/usr/sbin/nft": "nftables",
    "/usr/bin/nc": "netcat-openbsd",
    "/usr/bin/hostname": "hostname",
    str(PYTHON): "python3-venv",
    str(_SYSTEMD): "systemd",
    "/usr/sbin/ip": "iproute2",
    "/usr/bin/unshare": "util-linux",
}
_NAMESPACES = ("unshare", "-C", "-m", "-p", "-u", "-i", "-f", "--mount-proc")
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def what_is_missing() -> str:
    """Return why no such host is possible on this machine, or ""."""
    if os.geteuid() != 0:
        return "hosts in namespaces need root"
    packages = {package for file, package in _NEEDED.items() if not Path(file).exists()}
    if packages:
        return f"apt-get install {' '.join(sorted(packages))}"
    if _cgroups() is None:
        return "no cgroup v2 hierarchy is mounted"
    return why_not_installable() or _not_allowed()


def _not_allowed() -> str:
    script = (
        "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt && cd /mnt && mkdir old"
        " && mount -t cgroup2 none old && umount old && /usr/sbin/pivot_root . old"
    )
    probe = [*_NAMESPACES, "-n", "sh", "-c", script]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=20, check=False)
    return f"namespaces are not allowed here: {done.stderr.strip()}" if done.returncode else ""


def _cgroups() -> Path | None:
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)


def _remove_cgroup(folder: Path) -> bool:
    """Return whether it is gone: what has just been killed may hold it for a moment."""
    for below, _, _ in os.walk(folder, topdown=False):
        try:
            os.rmdir(below)
        except OSError:
            return False
    return True


class Host:
    """One host. Its disk outlives its power: off() is a power cut, on() boots."""

    def __init__(self, place: net.Host, disk: Path) -> None:
        self.name, self.address = place.name, place.address
        self._place = place
        self._disk = disk
        self._cgroup = (_cgroups() or Path()) / f"{disk.parent.name}-{place.name}"
        self._console = disk.with_suffix(".console")
        self._unshare: subprocess.Popen[bytes] | None = None
        self._init = 0

    @property
    def is_on(self) -> bool:
        """Return whether it has power."""
        return self._unshare is not None

    def on(self) -> None:
        """Boot, in the main thread: a host does not outlive that, however it ends."""
        self._link("up")
        self._cgroup.mkdir(exist_ok=True)
        enter = f'echo $$ > {self._cgroup}/cgroup.procs && exec "$@"'
        packages = sysconfig.get_paths()["purelib"]
        with self._console.open("ab") as log:
            self._unshare = subprocess.Popen(
                [
                    *(*self._place.prefix, "sh", "-c", enter, "sh"),
                    *("setpriv", "--pdeathsig=KILL", *_NAMESPACES, "--kill-child"),
                    *("bash", str(_SCRIPT), str(self._disk), str(ROOT), packages),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_booted(self) -> None:
        """Return when systemd has started what is enabled."""
        wait_for(f"{self.name} has booted", self._booted, timeout=30)

    def _booted(self) -> bool:
        assert self._unshare and self._unshare.poll() is None, self._console.read_text()
        pid = self._unshare.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._init = int(children[0]) if children else 0
        return bool(self._init) and not self._run("systemctl is-active multi-user.target")[0]

    def off(self) -> None:
        """Cut the power: everything of the host is gone when this returns, and nobody was told.

        What was written is on its disk, though: that is this machine's.
        """
        self._link("down")
        if self._unshare is not None:
            self._unshare.kill()
            self._unshare.wait(10)
            self._unshare = None
        wait_for(f"{self.name} is off", lambda: not self.processes(), timeout=20)
        gone = f"no control group is left of {self.name}"
        wait_for(gone, lambda: _remove_cgroup(self._cgroup), timeout=10)
        net.run(*self._place.prefix, "nft", "flush", "ruleset")

    def _link(self, state: str) -> None:
        net.run("ip", "-n", self._place.namespace, "link", "set", "eth0", state)

    def processes(self) -> set[int]:
        """Return everything that runs on the host."""
        return {pid for pid in net.processes_in(self._place.namespace) if alive(pid)}

    def _run(self, script: str) -> tuple[int, str]:
        enter = ("nsenter", f"--target={self._init}", "--all", "--")
        done = subprocess.run(
            [*enter, "bash", "-euo", "pipefail", "-c", script],
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
            check=False,
        )
        return done.returncode, done.stdout

    def sh(self, script: str) -> str:
        """Run a script as root in the checkout; what it says. AssertionError if a command fails."""
        code, said = self._run(f"cd /{CHECKOUT}\n{script}")
        assert code == 0, f"{self.name}: exit code {code} of\n{script}\n{said}"
        return said

    def write(self, path: str, text: str) -> None:
        """Write a file, as an editor would."""
        self.sh(f"cat > {path} <<'END OF FILE'\n{text}END OF FILE")

    def logs(self) -> str:
        """Return the ends of what its services have said."""
        files = [self._console, *sorted((self._disk / "var/log").glob("*.log"))]
        return "".join(f"--- {f.name} of {self.name}\n{f.read_text()[-3000:]}\n" for f in files)


class Hosts:
    """Use as a context manager, in the main thread: that is on the host `client` meanwhile.

    `numbers`, `client`: the last number of each address; they are of 192.0.2.0/24.
    """

    def __init__(self, numbers: Mapping[str, int], client: int) -> None:
        self._numbers = numbers
        self._client = client
        self._stack = ExitStack()
        self.by_name: dict[str, Host] = {}

    def __enter__(self) -> "Hosts":
        leftovers.remove_leftovers()
        _remove_left_cgroups()
        with ExitStack() as stack:
            base = make_base()
            stack.callback(remove_base, base)
            # Its copies of /etc are nobody's business.
            base.chmod(0o700)
            install(base / "pgregent")
            network = stack.enter_context(net.Net())
            places = {name: network.add(name, number) for name, number in self._numbers.items()}
            addresses = {name: place.address for name, place in places.items()}
            for name, place in places.items():
                (base / name).mkdir()
                make_disk(base / name, name, addresses, base / "pgregent")
                self.by_name[name] = Host(place, base / name)
                stack.callback(self.by_name[name].off)
                self.by_name[name].on()
            net.enter(network.add(CLIENT, self._client))
            stack.callback(net.leave)
            for host in self.by_name.values():
                host.wait_booted()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _remove_left_cgroups() -> None:
    for folder in (_cgroups() or Path()).glob(f"{net.PREFIX}-*"):
        if leftovers.is_left(folder.name):
            wait_for(f"{folder} is removed", lambda f=folder: _remove_cgroup(f), timeout=10)
