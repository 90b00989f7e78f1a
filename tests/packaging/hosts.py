"""Hosts with systemd as their init: network, process and mount namespaces on one bridge, in which
the commands of docs/production.md run as they are written. See host.sh.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.chaos import net
from tests.cluster.plain import own
from tests.cluster.processes import alive, wait_for
from tests.conformance.zookeeper_servers import JAR, JARS, JAVA_OPTIONS, MAIN

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path("/usr/bin/python3")
"""Programs that run as postgres need one that this user can reach."""
_SCRIPT = Path(__file__).with_name("host.sh")
_SYSTEMD = Path("/lib/systemd/systemd")
_HAPROXY = Path("/lib/systemd/system/haproxy.service")
_TOOLS = {"ip": "iproute2", "nft": "nftables", "unshare": "util-linux", "java": "zookeeper",
          "curl": "curl", "setpriv": "util-linux"}  # fmt: skip
_TARGETS = ("sysinit", "basic", "multi-user", "network-online", "shutdown", "umount")
_TARGET = "[Unit]\nDefaultDependencies=no\n"
_LOG = "[Service]\nStandardOutput=append:/var/log/%N.log\n"
_CLASS_PATH = f"{JAR}:{JARS}/netty-codec.jar:{JARS}/netty-resolver.jar"
_JAVA = " ".join((*JAVA_OPTIONS, "-XX:-UsePerfData", "-XX:-UseContainerSupport"))
"""The hosts share /tmp; and what Java makes of control groups depends on this machine's own."""
_ZOOKEEPER = f"""\
[Service]
User=zookeeper
ExecStart=/usr/bin/java {_JAVA} -cp {_CLASS_PATH} {MAIN} /etc/zookeeper/conf/zoo.cfg
Restart=always
[Install]
WantedBy=multi-user.target
"""
"""Debian's zookeeperd has only a script for init."""


def what_is_missing() -> str:
    """Return why no such host is possible on this machine, or ""."""
    if os.geteuid() != 0:
        return "hosts of their own need root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    packages = {package for tool, package in _TOOLS.items() if not shutil.which(tool, path=path)}
    packages |= set() if JAR.exists() else {"zookeeper"}
    packages |= set() if _SYSTEMD.exists() else {"systemd"}
    packages |= set() if _HAPROXY.exists() else {"haproxy"}
    if packages:
        return f"apt-get install {' '.join(sorted(packages))}"
    if not _cgroups():
        return "no cgroup v2 hierarchy is mounted"
    return _python_missing() or _not_allowed()


def _not_allowed() -> str:
    script = (
        "mount --make-rprivate / && mount -t tmpfs tmpfs /run && mount -t cgroup2 none /mnt &&"
        " mkdir /run/u /run/w && mount -t overlay overlay"
        " -o lowerdir=/etc,upperdir=/run/u,workdir=/run/w /etc"
    )
    probe = ["unshare", "-C", "-m", "-p", "-u", "-i", "-n", "-f", "--mount-proc", "sh", "-c"]
    done = subprocess.run([*probe, script], capture_output=True, text=True, timeout=20, check=False)
    return f"namespaces are not allowed here: {done.stderr.strip()}" if done.returncode else ""


def _python_missing() -> str:
    """The packages of this environment are lent to an interpreter that postgres can run."""
    wanted = ".".join(map(str, sys.version_info[:2]))
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    as_user = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
    command = [*as_user, str(PYTHON), "-I", "-c", f"import os; os.stat({_site()!r}); {script}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        return f"postgres cannot reach {_site()}: {done.stderr.strip()[-200:]}"
    found = done.stdout.strip()
    return "" if found == wanted else f"{PYTHON} is {found}, the tests run on {wanted}"


def _site() -> str:
    return sysconfig.get_paths()["purelib"]


def _cgroups() -> Path | None:
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)


_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


class Host:
    """One host. Its disk outlives its power: off() is a power cut, on() boots."""

    def __init__(self, place: net.Host, base: Path, opt: Path) -> None:
        self.name, self.address = place.name, place.address
        self._place = place
        self.folder = base / place.name
        self._cgroup = (_cgroups() or Path()) / f"{base.name}-{place.name}"
        self._init: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._make_disk(opt)

    def _mounted(self, path: str) -> Path:
        return self.folder / "mounts" / path.removeprefix("/")

    def _make_disk(self, opt: Path) -> None:
        for path in ("/etc/systemd/system", "/var/log", "/var/lib/postgresql"):
            self._mounted(path).mkdir(parents=True)
        own(self._mounted("/var/lib/postgresql"))
        shutil.copytree("/var/lib/zookeeper", self._mounted("/var/lib/zookeeper"), symlinks=True)
        shutil.chown(self._mounted("/var/lib/zookeeper"), "zookeeper", "zookeeper")
        self._mounted("/opt").mkdir()
        self._mounted("/opt/pgregent").symlink_to(opt)
        units = self._mounted("/usr/lib/systemd/system")
        (units / "service.d").mkdir(parents=True)
        (units / "service.d" / "log.conf").write_text(_LOG)
        for target in _TARGETS:
            (units / f"{target}.target").write_text(_TARGET)
        (units / "zookeeper.service").write_text(_ZOOKEEPER)
        shutil.copy(_HAPROXY, units)

    def on(self) -> None:
        """Boot; returns when systemd has started what is enabled."""
        self._link("up")
        self._cgroup.mkdir(exist_ok=True)
        enter = f'echo $$ > {self._cgroup}/cgroup.procs && exec "$@"'
        # A host does not outlive the tests, however they end.
        unshare = (
            "setpriv",
            "--pdeathsig=KILL",
            "unshare",
            "-C",
            "-m",
            "-p",
            "-u",
            "-i",
            "-f",
            "--kill-child",
            "--mount-proc",
        )
        with (self.folder / "init.log").open("ab") as log:
            self._init = subprocess.Popen(
                [
                    *(*self._place.prefix, "sh", "-c", enter, "sh"),
                    *(*unshare, "bash", str(_SCRIPT), str(self.folder), self.name),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(f"{self.name} has booted", self._booted, timeout=20)

    def _booted(self) -> bool:
        assert self._init and self._init.poll() is None, (self.folder / "init.log").read_text()
        pid = self._init.pid
        inits = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._pid = int(inits[0]) if inits else 0
        return bool(self._pid) and self._run("systemctl", "is-active", "multi-user.target") == 0

    def _run(self, *command: str) -> int:
        return subprocess.run(
            [*self._inside, *command], capture_output=True, check=False
        ).returncode

    @property
    def _inside(self) -> list[str]:
        return ["nsenter", f"--target={self._pid}", "--all", f"--wd={ROOT}", "--"]

    def off(self) -> None:
        """Cut the power: everything of the host is gone when this returns, and nobody was told."""
        self._link("down")
        if self._init is not None:
            self._init.kill()
            self._init.wait(10)
            self._init = None
        wait_for(f"{self.name} is off", lambda: not self.processes(), timeout=20)
        wait_for(f"no control group is left of {self.name}", self._remove_cgroup, timeout=10)

    def _link(self, state: str) -> None:
        net.run("ip", "-n", self._place.namespace, "link", "set", "eth0", state)

    def _remove_cgroup(self) -> bool:
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                return False
        return True

    def processes(self) -> set[int]:
        """Everything that runs on the host."""
        return {pid for pid in net.processes_in(self._place.namespace) if alive(pid)}

    def sh(self, script: str, timeout: float = 60.0) -> str:
        """Run a shell script as root; its output. AssertionError if a command of it fails."""
        done = subprocess.run(
            [*self._inside, "bash", "-euo", "pipefail", "-c", script],
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {script}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def start(self, script: str) -> Generator[subprocess.Popen[str]]:
        """A shell script that runs as root, with pipes, until the end of the block."""
        process = subprocess.Popen(
            [*self._inside, "bash", "-c", script],
            env=_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate(timeout=5)

    def write(self, path: str, text: str) -> None:
        """Write a file as an editor would."""
        done = subprocess.run(
            [*self._inside, "tee", path], input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def logs(self) -> str:
        """The ends of what its services have said."""
        files = [self.folder / "init.log", *sorted(self._mounted("/var/log").glob("*.log"))]
        return "".join(f"--- {f.name} of {self.name}\n{f.read_text()[-3000:]}\n" for f in files)


class Hosts:
    """Use as a context manager; `addresses` are of 192.0.2.0/24, name to last number."""

    def __init__(self, addresses: Mapping[str, int]) -> None:
        self._addresses = addresses
        self._net = net.Net()
        self.base = Path(tempfile.mkdtemp(prefix=f"pgregent-hosts-{secrets.token_hex(2)}-"))
        self.by_name: dict[str, Host] = {}

    def __enter__(self) -> "Hosts":
        try:
            self.base.chmod(0o755)
            opt = self.base / "opt"
            _install(opt)
            self._net.__enter__()
            for name, number in self._addresses.items():
                place = self._net.add(name, number)
                self.by_name[name] = Host(place, self.base, opt)
                self.by_name[name].on()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.by_name.values():
            host.off()
        self._net.__exit__()
        shutil.rmtree(self.base)


def _install(folder: Path) -> None:
    """What `pip install` makes of /opt/pgregent, with the packages of this environment."""
    net.run(str(PYTHON), "-m", "venv", "--without-pip", str(folder))
    [site] = folder.glob("lib/python*/site-packages")
    lent = f"{ROOT / 'src'}\nimport site; site.addsitedir({_site()!r})\n"
    (site / "lent.pth").write_text(lent)
    text = re.sub(r"(?m)^ +", "", """\
        #!/opt/pgregent/bin/python
        from pgregent.cli.main import main
        main()
        """)  # fmt: skip
    command = folder / "bin" / "pgregent"
    command.write_text(text)
    command.chmod(0o755)
