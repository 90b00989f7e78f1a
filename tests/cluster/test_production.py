"""docs/production.md as it is written, on three hosts: its files, its commands, its drills.

What is not run is marked on the page: the installing of packages, and of pgregent by pip. The hosts
have what is installed on this machine instead. Nor does the kernel of a host go down in a power
cut: what was written but not synced is there afterwards.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster.checkers import acknowledged
from tests.cluster.faults import HeldSession
from tests.cluster.processes import command_line, wait_for
from tests.cluster.production.demo import DATA_DIR, PASSWORD, Applications, Demo
from tests.cluster.production.disk import ROOT
from tests.cluster.production.hosts import Host, Hosts, what_is_missing
from tests.cluster.production.page import blocks

PAGE = ROOT / "docs" / "production.md"
NUMBERS = {"db1": 11, "db2": 12, "db3": 13}
CLIENT = 100
SETUP = ("1", "2", "3", "4", "5", "6", "7")
LEASE_S = 5.0

_missing = what_is_missing()
needs_hosts = pytest.mark.skipif(bool(_missing), reason=_missing)


def test_every_block_of_the_page_says_what_it_is() -> None:
    kinds = [block.kind for block in blocks(PAGE)]
    assert {"file", "on", "application", "not run", "shows"} == set(kinds)
    left_out = [block.text for block in blocks(PAGE) if block.kind == "not run"]
    assert all("pip" in text or "apt-get install" in text for text in left_out), left_out


@pytest.mark.parametrize("above", ["", "<!-- at db1 -->"])
def test_a_block_that_says_nothing_is_found(above: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        f"## 1. One\n\n<!-- on db1 -->\n    date\n\n## Two\n\nThen\n{above}\n    reboot\n"
    )
    with pytest.raises(ValueError, match="line 10: nothing above it says what it is"):
        blocks(page)


@pytest.fixture
def demo() -> Iterator[Demo]:
    """The page up to its entry point."""
    with Hosts(NUMBERS, CLIENT) as hosts:
        found = Demo(hosts, blocks(PAGE))
        try:
            for section in SETUP:
                found.follow(section)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{found.logs()}") from None
        yield found


@needs_hosts
def test_the_page(demo: Demo) -> None:
    demo.wait_whole()
    promises_of_the_hosts(demo)
    applications = Applications(demo)
    with applications.writing():
        for drill in (
            planned_handover,
            postgres_is_killed,
            power_of_the_primary_fails,
            power_of_a_standby_fails,
            agent_is_killed,
            agent_is_replaced,
            file_is_read_again,
            primary_leaves_in_good_order,
            disk_is_lost,
        ):
            began = time.monotonic()
            drill(demo, applications)
            demo.wait_whole()
            applications.wait_served(time.monotonic())
            print(f"{drill.__name__}: {time.monotonic() - began:.1f} s")
    assert len(acknowledged(applications.history)) > 100
    violations = applications.violations()
    assert not violations, "\n".join(violations[:20])
    assert not demo.not_run, "of the page this was not run"


def promises_of_the_hosts(demo: Demo) -> None:
    """Users, rights and ports are as the page says."""
    user = "ps -o user= -p $(systemctl show -P MainPID %s)"
    for host in demo.hosts.values():
        assert host.sh("systemctl --failed --no-legend") == ""
        assert host.sh("find /etc/pgregent -type f ! -perm 600") == ""
        assert host.sh(user % "haproxy").strip() == "haproxy"
        assert host.sh(user % "pgregent").strip() == "postgres"
        firewall(host)
    modes = demo.run("4", "nc ").split()
    assert sorted(modes) == ["Mode:"] * 3 + ["follower"] * 2 + ["leader"]
    codes = demo.run("6", "curl")
    assert codes.count("primary 200") == 1 and codes.count("replica 200") == 2, codes
    shown = next(b.text for b in blocks(PAGE) if b.kind == "shows").splitlines()
    listed = demo.run("6", "pgregent list").splitlines()
    assert [line.split() for line in listed[:3:2]] == [line.split() for line in shown[:3:2]]
    primary = demo.primary()
    watched = primary.sh("cat /var/log/pgregent-haproxy-watch.log")
    assert f"the primary is {primary.address}:5432" in watched


def firewall(host: Host) -> None:
    """Who is no member reaches HAProxy and the agents, and nothing else."""
    for port in (5435, 5436, 7000, 8008):
        assert reaches(host, port), f"{host.name}:{port}"
    for port in (2181, 3888, 5432):
        assert not reaches(host, port), f"{host.name}:{port}"


def reaches(host: Host, port: int) -> bool:
    """Return whether the client's host can connect; a packet that is dropped is not answered."""
    with closing(socket.socket()) as sock:
        sock.settimeout(0.2)
        return sock.connect_ex((host.address, port)) == 0


def planned_handover(demo: Demo, _: Applications) -> None:
    old = demo.primary()
    demo.run("9", "pgregent switchover")
    demo.wait_another_primary(old)


def postgres_is_killed(demo: Demo, _: Applications) -> None:
    old = demo.primary()
    demo.run("8", "kill -9")
    history = demo.run("8", "pgregent history")
    assert old.name in history
    demo.wait_another_primary(old)


def power_of_the_primary_fails(demo: Demo, applications: Applications) -> None:
    old, began = demo.primary(), time.monotonic()
    old.off()
    applications.wait_served(time.monotonic())
    print(f"the power of {old.name}: {applications.silences(began)} s without an acknowledgement")
    demo.wait_another_primary(old)
    comes_back(demo, old)


def power_of_a_standby_fails(demo: Demo, applications: Applications) -> None:
    standby, primary = demo.standby(), demo.primary()
    standby.off()
    applications.wait_served(time.monotonic())
    assert demo.primary() is primary
    comes_back(demo, standby)


def comes_back(demo: Demo, host: Host) -> None:
    """It needs nobody."""
    host.on()
    host.wait_booted()
    demo.wait_whole()
    firewall(host)


def agent_is_killed(demo: Demo, applications: Applications) -> None:
    take_over(demo, applications, "8", "-s KILL --kill-whom")


def agent_is_replaced(demo: Demo, applications: Applications) -> None:
    take_over(demo, applications, "9", "-s USR1")


def take_over(demo: Demo, applications: Applications, section: str, phrase: str) -> None:
    """End the primary's agent. Where the next one is there in time, nobody has noticed."""
    host, timeline = demo.primary(), demo.timeline()
    server, old = postmaster(host), agent(host)
    with HeldSession(applications.dsn) as session:
        began = time.monotonic()
        demo.run(section, phrase)
        wait_for("another agent", lambda: agent(host) not in (0, old), timeout=20)
        wait_for("its answer", lambda: demo.members(host), timeout=20)
        took = time.monotonic() - began
        demo.wait_whole()
        # Where a busy machine starts an agent as slowly as that, the guard stops the primary.
        if took < LEASE_S - 2:
            assert session.intact()
            assert (postmaster(host), demo.timeline()) == (server, timeline)
        else:
            print(f"another agent after {took:.1f} s: that its sessions go on is not judged")


def file_is_read_again(demo: Demo, _: Applications) -> None:
    host = demo.primary()
    old = agent(host)
    ask = f"PGPASSWORD={PASSWORD} psql -qAtX -h {host.address} -U postgres -c 'SHOW work_mem'"
    file = "/etc/pgregent/$(hostname).yml"
    assert host.sh(ask) == "4MB\n"
    host.sh(f"sed -i 's/^  parameters:/&\\n    work_mem: 5MB/' {file}")
    demo.run("9", "systemctl reload")
    wait_for("the new value", lambda: host.sh(ask) == "5MB\n", timeout=20)
    host.sh(f"sed -i s/^scope:/scoop:/ {file}")
    assert "Job for pgregent" in host.sh("! systemctl reload pgregent 2>&1")
    host.sh(f"sed -i s/^scoop:/scope:/ {file}")
    assert agent(host) == old


def primary_leaves_in_good_order(demo: Demo, _: Applications) -> None:
    old = demo.primary()
    demo.run("8", "systemctl stop")
    left = [" ".join(command_line(pid)) for pid in old.processes()]
    assert not [command for command in left if "postgres" in command], left
    demo.wait_another_primary(old)
    demo.run("8", "systemctl start", old)


def disk_is_lost(demo: Demo, _: Applications) -> None:
    timeline = demo.timeline()
    demo.run("9", "rm -rf")
    demo.wait_whole()
    assert demo.timeline() == timeline


def agent(host: Host) -> int:
    """Return the pid of the unit's main process, as the host numbers it."""
    return int(host.sh("systemctl show -P MainPID pgregent"))


def postmaster(host: Host) -> int:
    return int(host.sh(f"head -1 {DATA_DIR}/postmaster.pid"))
