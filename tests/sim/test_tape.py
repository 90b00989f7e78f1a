"""One tape: a seed, a recorded tape, a file and another process all play the same run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pgregent.core.errors import Refused
from tests.sim.schedule import play, replay
from tests.sim.tape import Strike, Tape
from tests.sim.tapefile import load, save

ROOT = Path(__file__).parents[2]
PRINT_STORIES = """
import hashlib
from tests.sim.schedule import play
for seed in range(1, 9):
    print(hashlib.sha256(play(seed).transcript.encode()).hexdigest())
"""


def _stories(hash_seed: str) -> str:
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PRINT_STORIES]
    return subprocess.run(
        command, env=env, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_a_seed_plays_the_same_in_every_process() -> None:
    stories = _stories("1")
    assert len(set(stories.split())) == 8
    assert stories == _stories("2")


@pytest.mark.parametrize("seed", range(1, 13))
def test_a_recorded_tape_plays_the_same(seed: int, tmp_path: Path) -> None:
    outcome = play(seed)
    save(outcome.tape, tmp_path / "tape.json", "nothing")
    tape, shows = load(tmp_path / "tape.json")
    assert shows == "nothing"
    again = replay(tape)
    assert again.transcript == outcome.transcript
    assert again.tape.strikes == outcome.tape.strikes
    assert (again.acked, again.terms, again.struck) == (
        outcome.acked,
        outcome.terms,
        outcome.struck,
    )


def _busy() -> Tape:
    """One on which much strikes."""
    tapes = (play(seed, "crashes").tape for seed in range(1, 50))
    return next(tape for tape in tapes if len(tape.strikes or ()) > 5)


def test_what_is_left_of_a_tape_strikes_as_it_did() -> None:
    tape = _busy()
    assert tape.strikes is not None
    kept = tape.strikes[1::2]
    outcome = replay(Tape(tape.seed, tape.choices, kept))
    if not outcome.problem:
        assert outcome.tape.strikes == kept
    strikes = [(at, what) for at, who, what in outcome.story if who == "!"]
    assert strikes == [(s.at, s.fault) for s in kept][: len(strikes)] and strikes


def test_a_tape_without_anything_is_calm() -> None:
    outcome = replay(Tape(7, {"nodes": 3}, ()))
    assert not outcome.problem and not outcome.struck
    assert outcome.terms == 1 and outcome.acked


def test_a_choice_that_is_new_leaves_the_others() -> None:
    before, after = Tape(5), Tape(5)
    options = range(1000)
    first = before.choose("a", *options), before.choose("b", *options)
    after.choose("new", *options)
    assert (after.choose("a", *options), after.choose("b", *options)) == first
    assert len({*first, Tape(6).choose("a", *options)}) == 3


def test_another_noise_plays_another_run() -> None:
    tape = _busy()
    other = Tape(tape.seed, tape.choices, tape.strikes, noise=1)
    assert replay(other).transcript != replay(tape).transcript


GOOD: dict[str, Any] = {"shows": "", "seed": 1, "noise": 0, "choices": {}, "strikes": []}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "cannot be read as a tape"),
        ("[]", "expected an object"),
        (json.dumps({**GOOD, "seed": "1"}), "seed: expected int, found '1'"),
        (json.dumps({**GOOD, "strikes": [[1.0, "kill everybody", 1]]}), "kill everybody"),
        (json.dumps({**GOOD, "strikes": [["soon", "kill node", 1]]}), "soon"),
    ],
)
def test_a_file_that_is_no_tape_is_refused(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "tape.json"
    path.write_text(text)
    with pytest.raises(Refused, match=r"tape\.json") as refused:
        load(path)
    assert named in str(refused.value)


def test_a_file_has_a_strike_on_each_line(tmp_path: Path) -> None:
    strikes = (Strike(101.5, "kill node", 3), Strike(102.25, "DCS away", 4))
    save(Tape(1, {"nodes": 3}, strikes), tmp_path / "tape.json", 'it said "no"')
    lines = (tmp_path / "tape.json").read_text().splitlines()
    assert '    [101.5, "kill node", 3],' in lines and '    [102.25, "DCS away", 4]' in lines
    assert load(tmp_path / "tape.json")[0].strikes == strikes
