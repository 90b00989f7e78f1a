"""The restart gate: what was read at the entry point is not lost; planted mistakes lose it."""

from typing import Any

import pytest
from bfs import search
from restart_gate import Mistake, RestartGate

# Every one with any number of crashes and restarts.
BOUNDS: list[dict[str, Any]] = [
    {"n": 1, "k": 1, "writes": 3, "lsns": 8},
    {"n": 2, "k": 1, "lsns": 6},
    {"n": 2, "k": 2, "lsns": 6},
    {"n": 3, "k": 2},
]


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_the_protocol_holds(bounds: dict[str, Any]) -> None:
    model = RestartGate(**bounds)
    result = search([model.initial], model.actions, model.broken)
    print(bounds, result)
    assert result.complete, result
    assert result.broken is None, result


@pytest.mark.parametrize("mistake", [m for m in Mistake if m.value > 1], ids=lambda m: m.name)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    model = RestartGate(mistake, n=2, k=1)
    result = search([model.initial], model.actions, model.broken, max_states=100_000)
    print(mistake.name, result)
    assert result.broken, result
    assert result.path
