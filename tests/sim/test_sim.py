"""Random schedules of the real core, and mistakes that they have to find."""

from collections.abc import Callable

import pytest

from tests.sim import mutants, scenes
from tests.sim.schedule import play

SEEDS = range(1, 41)
PER_TEST = 8


@pytest.mark.parametrize("first", SEEDS[::PER_TEST])
def test_nothing_is_lost_and_everything_heals(first: int) -> None:
    for seed in range(first, first + PER_TEST):
        outcome = play(seed)
        story = "\n".join(outcome.transcript.splitlines()[-60:])
        assert not outcome.problem, f"seed {seed}: {outcome.problem}\n{story}"


def test_a_schedule_is_repeatable() -> None:
    """Also across processes: what a seed shows can be looked at again."""
    assert play(3).transcript == play(3).transcript


@pytest.mark.parametrize(
    ("mutant", "theme"),
    [
        (mutants.one_seal_too_few, "false alarms"),
        (mutants.older_rules_dropped_at_the_appointment, "relays"),
        (mutants.rule_replaced, "crashes"),
        (mutants.no_barrier, "crashes"),
        (mutants.no_checkpoint, "crashes"),
        (mutants.stale_grants, "false alarms"),
    ],
)
def test_schedules_find(
    mutant: Callable[[pytest.MonkeyPatch], None], theme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    found = (play(seed, theme).problem for seed in range(1, 61))
    assert any(problem.startswith("S") for problem in found)


SCENES = [
    (mutants.vote_without_a_seal, scenes.succession_while_the_primary_works),
    (mutants.vote_before_the_walreceiver_is_gone, scenes.succession_while_the_primary_works),
    (mutants.term_blind, scenes.successor_dies_while_the_old_primary_comes_back),
    (mutants.rejoin_before_the_barrier, scenes.return_before_the_barrier),
    (mutants.handover_unproved, scenes.handover_to_one_that_is_behind),
]


@pytest.mark.parametrize(("mutant", "scene"), SCENES)
def test_scenes_find(
    mutant: Callable[[pytest.MonkeyPatch], None],
    scene: Callable[[int], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutant(monkeypatch)
    assert any(scene(seed).startswith("S") for seed in range(1, 31))


@pytest.mark.parametrize("scene", dict.fromkeys(scene for _, scene in SCENES))
def test_scenes_end_well(scene: Callable[[int], str]) -> None:
    for seed in (1, 2, 3):
        assert scene(seed) == ""
