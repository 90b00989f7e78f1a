"""Cutting tapes down: to what it takes, to the same invariant, within the time."""

import time
from pathlib import Path

import pytest

from tests.sim import mutants
from tests.sim.schedule import play, replay
from tests.sim.shrink import kind_of, shrink
from tests.sim.tape import Choice, Strike, Tape
from tests.sim.tapefile import load, save

STRIKES = tuple(Strike(100 + n / 7, "kill node", n) for n in range(20))
CHOICES: dict[str, Choice] = {"nodes": 5, "pace": 0.2, "longest": 8.0}


def _seeds(tape: Tape) -> set[int]:
    return {s.seed for s in tape.strikes or ()}


def test_only_what_it_takes_is_left() -> None:
    def shows(tape: Tape) -> str:
        needed = {3, 11, 12} <= _seeds(tape) and tape.choices.get("pace") == 0.2
        return "S1: lost" if needed else ""

    tape, problem = shrink(Tape(1, CHOICES, STRIKES), 60.0, shows)
    assert problem == "S1: lost"
    assert _seeds(tape) == {3, 11, 12} and tape.choices == {"pace": 0.2}
    assert [s.at for s in tape.strikes or ()] == [100.4, 101.6, 101.7]


def test_another_invariant_is_another_problem() -> None:
    def shows(tape: Tape) -> str:
        return "S1: lost" if 5 in _seeds(tape) else "the register is not settled"

    tape, problem = shrink(Tape(1, {}, STRIKES), 60.0, shows)
    assert problem == "S1: lost" and _seeds(tape) == {5}
    assert kind_of("the register is not settled") == "L1" and kind_of("") == ""


def test_other_delays_may_show_it() -> None:
    def shows(tape: Tape) -> str:
        return "S2: two" if len(_seeds(tape)) >= 10 or tape.noise == 2 else ""

    tape, _ = shrink(Tape(1, {}, STRIKES), 60.0, shows)
    assert tape.noise == 2 and not tape.strikes


def test_what_ends_well_stays_as_it_is() -> None:
    tape = Tape(1, CHOICES, STRIKES)
    assert shrink(tape, 60.0, lambda _: "") == (tape, "")


def test_it_ends_in_time() -> None:
    def shows(tape: Tape) -> str:
        time.sleep(0.02)
        return "S1: lost" if len(_seeds(tape)) > 18 else ""

    began = time.monotonic()
    tape, _ = shrink(Tape(1, CHOICES, STRIKES), 0.3, shows)
    assert time.monotonic() - began < 2.0 and len(_seeds(tape)) >= 19


def test_a_planted_mistake_leaves_a_short_tape(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Kept in a file it shows the mistake still, and without the mistake it ends well."""
    with monkeypatch.context() as patch:
        mutants.no_barrier(patch)
        outcomes = (play(seed, "crashes") for seed in range(1, 200))
        found = next(o for o in outcomes if o.problem.startswith("S"))
        tape, problem = shrink(found.tape, 15.0)
        save(tape, tmp_path / "tape.json", problem)
        kept, _ = load(tmp_path / "tape.json")
        assert replay(kept).problem == problem
        assert kind_of(problem) == kind_of(found.problem)
        assert len(kept.strikes or ()) < len(found.tape.strikes or ())
        assert len(kept.choices) < len(found.tape.choices)
    assert not replay(kept).problem
