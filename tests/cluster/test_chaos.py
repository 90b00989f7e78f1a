"""As many rounds of real faults as fit in $CHAOS_SECONDS (240), and that their tools work."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pgregent.core.types import Incarnation, Register, Rule, Term
from tests.cluster.chaos import leftovers, net, tally
from tests.cluster.chaos.disks import Disk, make_base, remove_base
from tests.cluster.chaos.hooked_agent import kind_of_write
from tests.cluster.chaos.leftovers import what_is_missing
from tests.cluster.chaos.rounds import Round, longest_silence
from tests.cluster.checkers import Attempt
from tests.cluster.processes import alive, wait_for
from tests.sim.tally import core_hash

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("CHAOS_SECONDS", "240"))
_CLOSING_S = 150.0

_missing = what_is_missing()
needs_rights = pytest.mark.skipif(bool(_missing), reason=_missing)


@needs_rights
def test_rounds() -> None:
    command = [sys.executable, "-m", "tests.cluster.chaos", "--rounds", "1000", "--no-tally"]
    done = subprocess.run(
        [*command, "--limit", str(SECONDS)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS + _CLOSING_S,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert " 0 of them failed" in done.stdout


@pytest.fixture
def network() -> Iterator[net.Net]:
    if _missing:
        pytest.skip(_missing)
    with net.Net() as found:
        for number, name in enumerate(("a", "b", "c"), 11):
            found.add(name, number)
        yield found


@contextmanager
def listening(network: net.Net, name: str) -> Generator[socket.socket]:
    """A socket on a host: made in a thread that goes there, it stays there."""
    made: list[socket.socket] = []

    def make() -> None:
        net.enter(network.hosts[name])
        made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made[0].bind((network.hosts[name].address, 0))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join(5)
    with made[0] as sock:
        sock.settimeout(2.0)
        yield sock


def crossing(network: net.Net, sender: str, receiver: str, timeout: float = 0.3) -> float | None:
    """Return the seconds that a datagram takes; None if it does not arrive in time."""
    with listening(network, sender) as here, listening(network, receiver) as there:
        there.settimeout(timeout)
        began = time.monotonic()
        here.sendto(b"x", there.getsockname())
        try:
            there.recv(10)
        except TimeoutError:
            return None
        return time.monotonic() - began


def arrives(network: net.Net, sender: str, receiver: str) -> bool:
    return crossing(network, sender, receiver) is not None


def test_a_cut_is_one_way_and_mends(network: net.Net) -> None:
    assert arrives(network, "a", "b")
    network.cut("a", "b")
    assert not arrives(network, "a", "b")
    assert arrives(network, "b", "a")
    assert arrives(network, "a", "c")
    network.mend()
    assert arrives(network, "a", "b")


def test_a_split_cuts_both_ways_and_nobody_else(network: net.Net) -> None:
    network.split(["a"], ["b"])
    assert not arrives(network, "a", "b")
    assert not arrives(network, "b", "a")
    assert arrives(network, "a", "c")


def test_a_lossy_link_loses_about_as_many_as_it_says(network: net.Net) -> None:
    network.lose("a", 30)
    sent = 300
    with listening(network, "a") as here, listening(network, "b") as there:
        for _ in range(sent):
            here.sendto(b"x", there.getsockname())
        there.settimeout(0.3)
        arrived = 0
        with suppress(TimeoutError):
            while there.recv(10):
                arrived += 1
    assert 0.55 * sent <= arrived <= 0.85 * sent
    assert arrives(network, "b", "c")


def test_a_slow_cable_delays_both_ways_and_ends(network: net.Net) -> None:
    with network.delayed("a", 0.1):
        slow = [crossing(network, *way, timeout=2) or 0.0 for way in ("ab", "ba")]
        assert arrives(network, "b", "c")
    fast = crossing(network, "a", "b") or 1.0
    # The first datagram of a way waits for the address to be asked for: there and back.
    assert all(0.1 <= seconds < 0.6 for seconds in slow), slow
    assert fast < 0.1


@pytest.fixture
def disk() -> Iterator[Disk]:
    if _missing:
        pytest.skip(_missing)
    base = make_base()
    found = Disk(base / "image", base / "nodes" / "n")
    try:
        found.mount()
        yield found
    finally:
        remove_base(base)
    assert not base.exists()


def test_a_full_disk_takes_nothing_and_an_emptied_one_does(disk: Disk) -> None:
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        (disk.place / "file").write_bytes(b"x" * 100_000)
    disk.empty()
    (disk.place / "file").write_bytes(b"x" * 100_000)


def test_a_frozen_disk_lets_writes_wait(disk: Disk) -> None:
    disk.freeze()
    writing = threading.Thread(target=(disk.place / "file").write_bytes, args=(b"x",), daemon=True)
    writing.start()
    writing.join(0.3)
    assert writing.is_alive()
    disk.thaw()
    writing.join(5)
    assert not writing.is_alive()


@needs_rights
def test_a_run_that_was_killed_is_cleaned_up_after() -> None:
    """Namespaces, mounts and processes of a SIGKILLed run go when the next one begins."""
    code = (
        "import signal; from tests.cluster.chaos import net;"
        "from tests.cluster.chaos.disks import Disk, make_base;"
        "n = net.Net(); n.__enter__(); h = n.add('x', 11); b = make_base();"
        "d = Disk(b / 'image', b / 'nodes' / 'x'); d.mount(); d.freeze();"
        "import subprocess as s; p = s.Popen([*h.prefix, 'sleep', '600'], start_new_session=True);"
        "print(p.pid, b, flush=True); signal.pause()"
    )
    run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert run.stdout
        pid, base = run.stdout.readline().split()
    finally:
        run.kill()
        run.wait(5)
    assert alive(int(pid))
    owned = f"{net.PREFIX}-{run.pid}-"
    assert any(name.startswith(owned) for name in os.listdir(net.NETNS))
    leftovers.remove_leftovers()
    assert not alive(int(pid))
    assert not any(name.startswith(owned) for name in os.listdir(net.NETNS))
    assert not Path(base.decode()).exists()


@needs_rights
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tests.cluster.chaos", "--rounds", "1", "--no-tally"]
    run = subprocess.Popen([*command, "--nodes", "3"], cwd=ROOT, stdout=subprocess.PIPE)
    owned = f"{net.PREFIX}-{run.pid}-"

    def ours() -> list[str]:
        return [name for name in os.listdir(net.NETNS) if name.startswith(owned)]

    try:
        wait_for("three nodes' namespaces", lambda: len(ours()) >= 5, timeout=20)
        run.send_signal(number)
        assert run.wait(30) == 130
    finally:
        run.kill()
        run.wait(5)
    assert ours() == []
    assert owned not in Path("/proc/mounts").read_text()


def ack(end: float, path: str = "entry") -> Attempt:
    return Attempt(1, path, end - 0.01, end, "ok", 1)


def test_the_longest_silence_is_the_one_after_the_fault() -> None:
    history = [ack(1), ack(5), ack(5.5), ack(8.5), ack(9), ack(7, "gate")]
    assert longest_silence(history, "entry", since=5.2) == 3.0
    assert longest_silence(history, "gate", since=5.2) == 0.0


ONE, TWO = Incarnation("n1", "1"), Incarnation("n2", "2")
RULE, WIDER = Rule(ONE, 0, ()), Rule(ONE, 1, (TWO,))
REGISTER = Register(7, 3, 1, ONE, (RULE,), False, "42", (Term(1, ONE, 0, 0),))


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (REGISTER, replace(REGISTER, electing=True, round=4), "electing"),
        (REGISTER, replace(REGISTER, term=2), "appoint"),
        (REGISTER, replace(REGISTER, rules=(RULE, WIDER)), "append"),
        (replace(REGISTER, rules=(RULE, WIDER)), replace(REGISTER, rules=(WIDER,)), "drop"),
        (replace(REGISTER, electing=True), REGISTER, "back"),
        (REGISTER, replace(REGISTER, seq=8), ""),
        (None, REGISTER, "appoint"),
    ],
)
def test_a_write_is_known_by_what_it_changes(
    before: Register | None, after: Register, kind: str
) -> None:
    assert kind_of_write(before, after) == kind


def test_an_agent_dies_at_its_point_once(tmp_path: Path) -> None:
    code = "from tests.cluster.chaos.hooked_agent import reach; reach('before seal')"
    environment = {**os.environ, "CHAOS_DIR": str(tmp_path), "CHAOS_NODE": "n1"}

    def pass_it() -> int:
        run = [sys.executable, "-c", code]
        return subprocess.run(run, cwd=ROOT, env=environment, timeout=20, check=False).returncode

    (tmp_path / "point").write_text("after seal")
    assert pass_it() == 0
    (tmp_path / "point").write_text("before seal")
    assert pass_it() == -signal.SIGKILL
    assert (tmp_path / "point-of-n1").exists()
    assert pass_it() == 0


def test_the_tally_counts_the_rounds_of_one_core(tmp_path: Path) -> None:
    path, page = tmp_path / "proof" / "chaos.json", tmp_path / "proof.md"
    page.write_text("before\n<!-- chaos -->\nold\n<!-- end of chaos -->\nafter\n")
    core = core_hash()
    outages = {"entry": 0.25, "gate": 0.5}
    first = Round(["kill-node"], "bank", "zookeeper", outages=outages, acknowledged=7)
    outages = {"entry": 1.5}
    second = Round(["kill-node", "ring"], "bank", "etcd", outages=outages, violations=["lost"])
    assert tally.add(first, core, path)
    assert tally.add(second, core, path)
    assert not tally.add(second, "another", path)
    # As in rounds from before there was a choice.
    path.write_text(path.read_text().replace('"dcs": "zookeeper", ', ""))
    tally.report(page, path)
    text = page.read_text()
    assert "| kill-node | 2 | 1 | 1.00 | 1.50 | 1.50 |" in text
    assert "| ring | 1 | 1 | 1.50 |" in text
    assert "| **all rounds** | 2 | 1 |" in text and "| 7 | 0 | 1 |" in text
    assert "\nDCS: etcd 1, zookeeper 1.\n" in text
    assert "old" not in text and text.startswith("before") and text.endswith("after\n")
    path.write_text(path.read_text().replace(core, "another"))
    tally.report(page, path)
    assert "No round has been played on this core" in page.read_text()
