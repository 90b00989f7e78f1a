"""A handover by the primary: nothing is lost within the bounds; each planted mistake loses some."""

import os
from typing import Any

import pytest
from bfs import search
from handover import Handover, Mistake
from quorum_state import broken

TWO: dict[str, Any] = {"nodes": 2, "k": 1, "members": 1, "changes": 0}
THREE: dict[str, Any] = {"nodes": 3, "k": 1, "members": 2, "changes": 0}

# Every one with any number of crashes, restarts, and elections at every step of the handover.
BOUNDS: list[dict[str, Any]] = [
    {**TWO, "terms": 3, "stops": 2},
    {**THREE, "writes": 2},
    {**THREE, "k": 2, "changes": 1, "writes": 0},
    {**THREE, "terms": 3, "writes": 0},
]
WIDER: list[dict[str, Any]] = [
    {**THREE, "terms": 3, "stops": 2},
    {**THREE, "terms": 3, "changes": 1, "writes": 0},
    {**THREE, "nodes": 4, "members": 3, "k": 2, "terms": 3, "writes": 0},
]
wider = pytest.mark.skipif("MODEL_WIDER" not in os.environ, reason="minutes; MODEL_WIDER=1 runs it")


@pytest.mark.parametrize(
    "bounds", [*BOUNDS, *(pytest.param(b, marks=wider) for b in WIDER)], ids=str
)
def test_the_protocol_holds(bounds: dict[str, Any]) -> None:
    model = Handover(**bounds)
    result = search([model.initial], model.actions, broken, max_states=6_000_000)
    print(bounds, result)
    assert result.complete, result
    assert result.broken is None, result


@pytest.mark.parametrize("mistake", [m for m in Mistake if m.value > 1], ids=lambda m: m.name)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    model = Handover(mistake, **THREE, terms=3)
    result = search([model.initial], model.actions, broken, max_states=100_000)
    print(mistake.name, result)
    assert result.broken, result
    assert result.path
