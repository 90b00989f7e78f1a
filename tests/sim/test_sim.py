"""Mistakes that random schedules have to find, and plays that lead to where one would show."""

from collections.abc import Callable

import pytest

from tests.sim import mutants, scenes
from tests.sim.schedule import play


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
    found = (play(seed, theme).problem for seed in range(1, 301))
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
