"""Sums of many schedules: on all cores, over many nights, for one core; and what never struck."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pgregent.core.errors import Refused
from tests.sim.nightly import Proof
from tests.sim.phases import PHASES
from tests.sim.pool import CHUNK, play_all, play_on_all_cores
from tests.sim.schedule import FAULTS
from tests.sim.tally import CORE, ENOUGH, NOT_PLAYED, Tally, core_hash

ROOT = Path(__file__).parents[2]


def test_two_processes_count_what_one_does() -> None:
    first, last = 1, 2 * CHUNK + 5
    seen: list[range] = []
    together = Tally()
    for seeds, part in play_on_all_cores(first, last, jobs=2, seconds=None):
        seen.append(seeds)
        together.add(part)
    assert [seed for seeds in seen for seed in seeds] == [*range(first, last + 1)]
    alone = play_all(range(first, last + 1))
    assert together.cpu_s > 0
    together.cpu_s = alone.cpu_s
    assert together == alone


def test_none_is_begun_after_the_time() -> None:
    assert not [*play_on_all_cores(1, None, jobs=2, seconds=0.0)]


def test_a_mistake_of_the_simulator_counts_as_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(seed: int, theme: str) -> None:
        raise KeyError(seed)

    monkeypatch.setattr("tests.sim.pool.play", play)
    assert play_all(range(3, 5)).bad == {3: "raised KeyError(3)", 4: "raised KeyError(4)"}


def _everything_struck() -> Tally:
    return Tally(ENOUGH, struck=Counter(FAULTS), during=Counter(PHASES))


def test_a_zero_is_told_once_enough_was_played() -> None:
    tally = _everything_struck()
    assert tally.missing() == []
    del tally.struck["kill node"], tally.during["promotion"]
    assert tally.missing() == ["kill node", "while there was: promotion"]
    tally.schedules = ENOUGH - 1
    assert tally.missing() == []


def test_a_hash_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.py").write_text("2")
    hashes = [core_hash(tmp_path)]
    (tmp_path / "sub/b.py").write_text("3")
    hashes.append(core_hash(tmp_path))
    (tmp_path / "sub/b.py").rename(tmp_path / "sub/c.py")
    hashes.append(core_hash(tmp_path))
    assert len(set(hashes)) == 3
    (tmp_path / "notes.txt").write_text("x")
    assert core_hash(tmp_path) == hashes[-1]


def test_the_sum_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "proof/tally.json"
    Proof(path, "one core").play(5, 1, lambda _: None, None)
    again = Proof(path, "one core")
    assert (again.first, again.next, again.tally.schedules) == (1, 6, 5)
    again.play(8, 1, lambda _: None, None)
    whole = Proof(path, "one core").tally
    assert json.loads(path.read_text())["seeds"] == [1, 8]
    alone = play_all(range(1, 9))
    alone.cpu_s = whole.cpu_s
    assert whole == alone
    other = Proof(path, "another core")
    assert (other.first, other.next, other.tally) == (9, 9, Tally())


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"seeds": [1]}'])
def test_a_file_that_is_no_tally_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tally.json"
    path.write_text(text)
    with pytest.raises(Refused, match=r"tally\.json: not a tally"):
        Proof(path)
    assert path.read_text() == text


def test_what_was_played_is_kept_when_it_is_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "tally.json"
    command = [sys.executable, "-u", "-m", "tests.sim.cli", "nightly", "--jobs", "2"]
    command += ["--tally", str(path), "--keep", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    # Where the tests run in the background, SIGINT is ignored.
    command = ["env", "--default-signal=INT", *command]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, bufsize=0) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(1), "no progress was shown"
            process.send_signal(signal.SIGINT)
            told, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert b"what was played is kept" in told
    found = json.loads(path.read_text())
    assert found["schedules"] >= CHUNK and found["core"] == core_hash()
    assert found["seeds"] == [1, found["schedules"]]


def test_what_is_not_played_is_not_part_of_the_step() -> None:
    for path in CORE.glob("*.py"):
        text = path.read_text() if path.name not in NOT_PLAYED else ""
        assert not any(f"core.{name.removesuffix('.py')} " in text for name in NOT_PLAYED), path
