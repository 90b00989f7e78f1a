"""docs/production.md, as it is written: three hosts with systemd, each in namespaces of its own.

A block below `<!-- file PATH -->` is a file of every host, one below `<!-- on … -->` is run there.
"""

import json
import re
import subprocess
import textwrap
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster.processes import command_line, wait_for
from tests.packaging.hosts import ROOT, Host, Hosts, what_is_missing

PAGE = ROOT / "docs" / "production.md"
NAMES = {"db1": 11, "db2": 12, "db3": 13}
WHOLE_S = 60.0
LEASE_S = 5.0
_BLOCK = re.compile(r"<!-- (file|on) ([^\n]+) -->\n((?:(?: {4}[^\n]*)?\n)+)")
_DATA = "/var/lib/postgresql/15/main"

_missing = what_is_missing()
pytestmark = pytest.mark.skipif(bool(_missing), reason=_missing)


@dataclass(frozen=True, slots=True)
class Block:
    """What the page says to write (`file`, into `where`) or to run (`on`, `where`)."""

    kind: str
    where: str
    text: str


def blocks(section: str) -> list[Block]:
    """Return the blocks of one section, in their order."""
    [found] = re.findall(rf"(?ms)^## {section}\..*?(?=^## |\Z)", PAGE.read_text())
    return [Block(kind, at, textwrap.dedent(text)) for kind, at, text in _BLOCK.findall(found)]


def command(section: str, phrase: str) -> str:
    """Return the one block of a section that holds the phrase."""
    [found] = [b.text for b in blocks(section) if b.kind == "on" and phrase in b.text]
    return found


class Demo:
    """The cluster of the page."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts.by_name

    def follow(self, section: str) -> None:
        """Do what a section says."""
        for block in blocks(section):
            if block.kind == "file":
                for host in self.hosts.values():
                    host.write(block.where, block.text)
            elif block.where == "each host":
                for host in self.hosts.values():
                    host.sh(block.text)
            else:
                name, _, until = block.where.partition(", ")
                if until:
                    self.wait_whole()
                self.hosts[name].sh(block.text)

    def cluster(self) -> dict[str, Any]:
        """Return what the first agent that answers says of all."""
        ask = "curl -sf -m 1 http://%s:8008/cluster"
        script = " || ".join(ask % host.address for host in self.hosts.values())
        here = next(host for host in self.hosts.values() if host.processes())
        return json.loads(here.sh(f"{script} || echo {{}}"))

    def primary(self) -> Host:
        """Return the host of the primary, of which there is one."""
        leaders = [m["name"] for m in self.cluster()["members"] if m["role"] == "leader"]
        assert len(leaders) == 1, leaders
        return self.hosts[leaders[0]]

    def standby(self) -> Host:
        """Return the host of a standby."""
        primary = self.primary()
        return next(host for host in self.hosts.values() if host is not primary)

    def timeline(self) -> int:
        """Return the primary's timeline."""
        return next(m["timeline"] for m in self.cluster()["members"] if m["role"] == "leader")

    def is_whole(self) -> bool:
        members = self.cluster().get("members", [])
        states = sorted((m["role"], m["state"]) for m in members)
        standby = ("quorum_standby", "streaming")
        one_timeline = len({m.get("timeline") for m in members}) == 1
        return one_timeline and states == [("leader", "running"), standby, standby]

    def wait_whole(self) -> None:
        try:
            wait_for("a leader and two that stream", self.is_whole, timeout=WHOLE_S, every=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.cluster()}\n{self.logs()}") from None

    def logs(self) -> str:
        return "".join(host.logs() for host in self.hosts.values())


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """The page up to its entry point."""
    with Hosts(NAMES) as hosts:
        found = Demo(hosts)
        try:
            for section in ("1", "2", "3", "4", "5", "6", "7"):
                found.follow(section)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{found.logs()}") from None
        yield found


@pytest.fixture
def whole(demo: Demo) -> Iterator[Demo]:
    """The same, before and after a drill."""
    demo.wait_whole()
    yield demo
    demo.wait_whole()


def agent(host: Host) -> int:
    """Return the pid of the unit's main process, as the host numbers it."""
    return int(host.sh("systemctl show -P MainPID pgregent"))


def postmaster(host: Host) -> int:
    return int(host.sh(f"head -1 {_DATA}/postmaster.pid"))


def insert() -> str:
    return command("8", "pgregent history")


@contextmanager
def session(host: Host) -> Generator[subprocess.Popen[str]]:
    """A session with the primary by way of the host's own HAProxy."""
    psql = "PGPASSWORD=choose-one exec psql -qAtX -h 127.0.0.1 -p 5435 -U postgres"
    with host.start(psql) as process:
        assert backend(process)
        yield process


def backend(process: subprocess.Popen[str]) -> str:
    """Return which backend answers in the session, "" where it has ended."""
    assert process.stdin and process.stdout
    try:
        process.stdin.write("SELECT pg_backend_pid();\n")
        process.stdin.flush()
    except BrokenPipeError:
        return ""
    return process.stdout.readline().strip()


def take_over(demo: Demo, script: str, old: int) -> None:
    """Run what ends the primary's agent; returns when another one has taken over."""
    host, began = demo.primary(), time.monotonic()
    host.sh(script)
    ask = f"curl -so /dev/null -m 1 -w '%{{http_code}}' http://{host.address}:8008/primary || true"

    def serves() -> bool:
        return agent(host) not in (0, old) and host.sh(ask) == "200"

    wait_for("another agent that serves", serves, timeout=20)
    if time.monotonic() - began > LEASE_S - 1:
        pytest.skip("this machine is too busy to start an agent within the lease")
    demo.wait_whole()


def test_what_the_page_promises_of_its_hosts(whole: Demo) -> None:
    user = "ps -o user= -p $(systemctl show -P MainPID %s)"
    for host in whole.hosts.values():
        assert host.sh("systemctl --failed --no-legend") == ""
        assert host.sh("find /etc/pgregent -type f ! -perm 600") == ""
        assert host.sh(user % "haproxy").strip() == "haproxy"
        assert host.sh(user % "pgregent").strip() == "postgres"
    codes = whole.hosts["db1"].sh(command("6", "curl"))
    assert codes.count("primary 200") == 1 and codes.count("replica 200") == 2, codes
    watched = whole.hosts["db1"].sh("cat /var/log/pgregent-haproxy-watch.log")
    assert f"the primary is {whole.primary().address}:5432" in watched


def test_the_guard_locks_its_memory(whole: Demo) -> None:
    host = whole.primary()
    if "unlimited" not in host.sh(f"grep 'Max locked' /proc/{agent(host)}/limits"):
        pytest.skip("root may not raise limits here (no CAP_SYS_RESOURCE)")
    assert int(host.sh("grep VmLck /proc/$(pgrep -f guard[.]py)/status").split()[1]) > 0


def test_the_primary_is_killed(whole: Demo) -> None:
    old, before = whole.primary(), whole.timeline()
    old.sh(command("8", "kill -9"))
    history = whole.hosts["db2"].sh(insert())
    assert old.name in history
    assert whole.primary() is not old
    whole.wait_whole()
    assert whole.timeline() == before + 1


def test_an_agent_is_killed(whole: Demo) -> None:
    host, before = whole.primary(), whole.timeline()
    server, killed = postmaster(host), agent(host)
    with session(whole.standby()) as client:
        served = backend(client)
        take_over(whole, command("8", "--kill-whom"), killed)
        assert backend(client) == served
    assert (postmaster(host), whole.timeline()) == (server, before)


def test_an_agent_is_replaced(whole: Demo) -> None:
    host, before = whole.primary(), whole.timeline()
    server, old = postmaster(host), agent(host)
    with session(whole.standby()) as client:
        served = backend(client)
        take_over(whole, command("9", "-s USR1"), old)
        assert backend(client) == served
    assert (postmaster(host), whole.timeline()) == (server, before)


def test_a_file_is_read_again(whole: Demo) -> None:
    host = whole.primary()
    old = agent(host)
    reload = command("9", "systemctl reload")
    ask = f"PGPASSWORD=choose-one psql -qAtX -h {host.address} -U postgres -c 'SHOW work_mem'"
    set_it = "sed -i 's/^  parameters:/&\\n    work_mem: 5MB/' /etc/pgregent/$(hostname).yml"
    assert host.sh(ask) == "4MB\n"
    host.sh(f"{set_it}\n{reload}")
    wait_for("the new value", lambda: host.sh(ask) == "5MB\n", timeout=10)
    assert agent(host) == old, "by the agent that was there"


def test_a_file_with_a_mistake_is_not_read(whole: Demo) -> None:
    host = whole.primary()
    old = agent(host)
    host.sh("cd /etc/pgregent && sed -i s/^scope:/scoop:/ $(hostname).yml")
    try:
        assert host.sh("! systemctl reload pgregent 2>&1").startswith("Job for pgregent")
    finally:
        host.sh("cd /etc/pgregent && sed -i s/^scoop:/scope:/ $(hostname).yml")
    assert agent(host) == old


def test_the_primary_leaves_in_good_order(whole: Demo) -> None:
    old, before = whole.primary(), whole.timeline()
    old.sh(command("8", "systemctl stop"))
    left = [command_line(pid) for pid in old.processes()]
    assert not [words for words in left if "postgres" in " ".join(words)], left
    assert whole.primary() is not old
    old.sh(command("8", "systemctl start"))
    whole.wait_whole()
    assert whole.timeline() == before + 1


def test_the_power_of_the_primary_fails(whole: Demo) -> None:
    old = whole.primary()
    other = whole.standby()
    old.off()
    other.sh(insert())
    assert whole.primary() is not old
    old.on()


def test_a_disk_is_lost(whole: Demo) -> None:
    host, before = whole.standby(), whole.timeline()
    host.sh(command("9", "rm -rf"))
    whole.wait_whole()
    assert whole.timeline() == before
