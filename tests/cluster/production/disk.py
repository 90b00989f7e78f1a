"""What is on the disk of a host before anybody has logged in: Debian, its packages, and pgregent as
pip would have installed it. Programs themselves are this machine's: host.sh mounts them.

Debian's zookeeperd has only a script for init; a unit stands in for that.
"""

import compileall
import re
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.chaos.net import run
from tests.cluster.plain import own
from tests.conformance.zookeeper_servers import JAR, JARS, JAVA_OPTIONS, MAIN

ROOT = Path(__file__).resolve().parents[3]
CHECKOUT = "root/pgregent"
PYTHON = Path("/usr/bin/python3")
"""Debian's, as on the page. It borrows the packages of the tests' own interpreter."""
_UNITS = Path("/lib/systemd/system")
UNITS = (
    *("haproxy.service", "nftables.service", "sysinit.target", "basic.target"),
    *("multi-user.target", "network-pre.target", "network-online.target", "shutdown.target"),
    "umount.target",
)
"""Of Debian's units; a host needs no others."""
_FOLDERS = (
    *("dev", "local/bin", "mnt", "opt/packages", "proc", "run", "sys", "tmp", "usr", "units"),
    *("var/lib/haproxy/dev", "var/lib/postgresql", "var/log", "var/tmp", CHECKOUT),
)
_LOG = "[Service]\nStandardOutput=append:/var/log/%N.log\n"
_CLASS_PATH = f"{JAR}:{JARS}/netty-codec.jar:{JARS}/netty-resolver.jar"
# What Java makes of control groups depends on this machine's own.
_JAVA = " ".join((*JAVA_OPTIONS, "-XX:-UsePerfData", "-XX:-UseContainerSupport"))
_ZOOKEEPER = f"""\
[Service]
User=zookeeper
ExecStart=/usr/bin/java {_JAVA} -cp {_CLASS_PATH} {MAIN} /etc/zookeeper/conf/zoo.cfg
Restart=always
[Install]
WantedBy=multi-user.target
"""


def make_disk(disk: Path, name: str, addresses: Mapping[str, str], pgregent: Path) -> None:
    """Fill `disk`, an empty directory, for the host `name`; `pgregent`: see `install`."""
    for folder in _FOLDERS:
        (disk / folder).mkdir(parents=True)
    for link in ("bin", "sbin", "lib", "lib64"):
        (disk / link).symlink_to(f"usr/{link}")
    (disk / "var/run").symlink_to("/run")
    run("cp", "-a", "/etc", str(disk))
    # Services of this machine are not the host's.
    shutil.rmtree(disk / "etc/systemd/system")
    (disk / "etc/systemd/system").mkdir()
    known = "".join(f"{address} {host}\n" for host, address in addresses.items())
    _replace(disk / "etc/hosts", f"127.0.0.1 localhost\n{known}")
    _replace(disk / "etc/hostname", f"{name}\n")
    _replace(disk / "etc/resolv.conf", "")
    own(disk / "var/lib/postgresql")
    run("cp", "-a", "/var/lib/zookeeper", str(disk / "var/lib"))
    run("cp", "-a", str(pgregent), str(disk / "opt/pgregent"))
    _write_units(disk / "units")


def _replace(file: Path, text: str) -> None:
    file.unlink()  # It may be a link to this machine's own.
    file.write_text(text)


def _write_units(folder: Path) -> None:
    (folder / "service.d").mkdir()
    (folder / "service.d" / "log.conf").write_text(_LOG)
    (folder / "zookeeper.service").write_text(_ZOOKEEPER)
    for name in UNITS:
        shutil.copy(_UNITS / name, folder)


def install(folder: Path) -> None:
    """Make what `pip install` makes of /opt/pgregent: a copy of the package, and its command."""
    run(str(PYTHON), "-m", "venv", "--without-pip", str(folder))
    [site] = folder.glob("lib/python*/site-packages")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "pgregent", site / "pgregent", ignore=ignored)
    if not compileall.compile_dir(site, quiet=1):
        raise AssertionError(f"{site} cannot be compiled")
    (site / "lent.pth").write_text("import site; site.addsitedir('/opt/packages')\n")
    script = Path(sysconfig.get_path("scripts"), "pgregent").read_text()
    command = folder / "bin" / "pgregent"
    command.write_text(re.sub(r"\A#!.*", "#!/opt/pgregent/bin/python", script))
    command.chmod(0o755)


def why_not_installable() -> str:
    """Return why Debian's interpreter cannot borrow the tests' packages, or ""."""
    wanted = ".".join(map(str, sys.version_info[:2]))
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    found = run(str(PYTHON), "-I", "-c", script).strip()
    return "" if found == wanted else f"{PYTHON} is {found}, the tests run on {wanted}"
