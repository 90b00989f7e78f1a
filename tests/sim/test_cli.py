"""The command pgregent-sim, as people call it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.sim import cli, mutants
from tests.sim.pool import play_all
from tests.sim.schedule import play, replay
from tests.sim.tally import Tally
from tests.sim.tapefile import load, save


def _call(*args: str) -> tuple[int, str]:
    found = CliRunner().invoke(cli.main, args, prog_name="pgregent-sim")
    assert found.exception is None or isinstance(found.exception, SystemExit)
    return found.exit_code, found.output


def _in_this_process(
    first: int, last: int, *, jobs: int, seconds: float | None, theme: str
) -> Iterator[tuple[range, Tally]]:
    """So that a planted mistake is there too."""
    seeds = range(first, last + 1)
    yield seeds, play_all(seeds, theme)


def test_a_failure_is_told_and_cut_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mutants.no_barrier(monkeypatch)
    monkeypatch.setattr(cli, "play_on_all_cores", _in_this_process)
    monkeypatch.setattr(cli, "SHRINK_SECONDS", 3.0)
    outcomes = ((seed, play(seed, "crashes")) for seed in range(1, 200))
    seed, found = next((s, o) for s, o in outcomes if o.problem.startswith("S"))
    code, told = _call("run", "--seeds", f"{seed}", "--theme", "crashes", "--keep", str(tmp_path))
    assert code == 1 and f"seed {seed}: {found.problem}" in told
    tape, shows = load(tmp_path / f"seed-{seed}.json")
    assert replay(tape).problem == shows
    code, told = _call("replay", str(tmp_path / f"seed-{seed}.json"))
    assert code == 1 and shows in told


def test_what_strikes_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "play_on_all_cores", _in_this_process)
    code, told = _call("run", "--seeds", "1-6", "--theme", "crashes")
    assert code == 0 and "kill server" in told and "office" in told and "6 schedules" in told


def test_a_zero_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def played(*args: Any, **options: Any) -> Iterator[tuple[range, Tally]]:
        yield range(1, 1001), Tally(1000, cpu_s=1.0)

    monkeypatch.setattr(cli, "play_on_all_cores", played)
    code, told = _call("run", "--seeds", "1-1000")
    assert code == 1 and "never struck in 1000 schedules: kill node" in told
    assert "never struck in 1000 schedules: while there was: promotion" in told


def test_a_story_can_be_of_some_only() -> None:
    code, told = _call("replay", "3", "--who", "dcs")
    story = told.split("\n\n")[0].splitlines()
    assert code == 0 and story and {line.split()[1] for line in story} == {"dcs"}
    assert "acknowledged writes: all is well" in told
    everything = _call("replay", "3")[1]
    assert all(part in everything for part in (" n1 ", " ! ", "agent starts"))


def test_what_ends_well_is_not_cut_down(tmp_path: Path) -> None:
    outcome = play(3)
    assert not outcome.problem
    save(outcome.tape, tmp_path / "tape.json", "nothing")
    for what in ("3", str(tmp_path / "tape.json")):
        code, told = _call("shrink", what, "--keep", str(tmp_path / "kept"))
        assert code == 2 and "ends well" in told
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("run", "--seeds", "5-1"), "'5-1' is neither a seed nor a range"),
        (("run", "--seeds", "all"), "'all' is neither"),
        (("run", "--theme", "rain"), "rain"),
        (("run", "--jobs", "0"), "--jobs"),
        (("replay", "/nowhere/tape.json"), "/nowhere/tape.json: cannot be read as a tape"),
        (("replay", "-1"), "-1"),
    ],
)
def test_bad_input_is_refused(args: tuple[str, ...], named: str) -> None:
    code, told = _call(*args)
    assert code == 2 and named in told
