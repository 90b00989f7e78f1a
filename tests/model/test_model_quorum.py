"""`ANY 2` among five: nothing is lost within the bounds, and each planted mistake loses some."""

import os
from typing import Any

import pytest
from bfs import search
from quorum import Mistake, Quorum
from quorum_state import broken

# Every one with any number of crashes and restarts, and with everybody as slow as they like.
BOUNDS: list[dict[str, Any]] = [
    {"nodes": 5, "members": 4, "changes": 1},
    {"nodes": 5, "members": 2, "changes": 1, "writes": 0},
    {"nodes": 4, "members": 3, "changes": 1},
    {"nodes": 3, "members": 1, "changes": 3},
    {"nodes": 3, "members": 2, "changes": 1, "terms": 3, "writes": 0},
]
WIDER: list[dict[str, Any]] = [
    {"nodes": 3, "members": 2, "changes": 1, "terms": 3},
    {"nodes": 5, "members": 4, "changes": 2},
    {"nodes": 5, "members": 4, "changes": 0, "terms": 3},
    {"nodes": 4, "members": 3, "changes": 1, "terms": 3},
    {"nodes": 4, "members": 2, "changes": 3},
    {"nodes": 4, "members": 3, "changes": 2, "writes": 2},
]
wider = pytest.mark.skipif("MODEL_WIDER" not in os.environ, reason="minutes; MODEL_WIDER=1 runs it")

THREE = {"nodes": 3, "members": 2}
MISTAKES: dict[Mistake, dict[str, Any]] = {
    Mistake.ONE_SEAL_TOO_FEW: {},
    Mistake.SEALS_AS_IF_K_WERE_THE_LAST: {"nodes": 3, "members": 1},
    Mistake.ONLY_THE_LAST_RULE_SATISFIED: {},
    Mistake.RULES_TOGETHER_SATISFIED: THREE,
    Mistake.TERM_BLIND: {**THREE, "terms": 3},
    Mistake.RULES_REPLACED: {},
    Mistake.RULES_REPLACED_AT_APPOINTMENT: {"changes": 0, "terms": 3},
    Mistake.K_LOWERED_WITHOUT_CAS: {},
    Mistake.DROP_BEFORE_BARRIER: {},
    Mistake.DROP_AFTER_ONE_OF_K: {},
}


@pytest.mark.parametrize(
    "bounds", [*BOUNDS, *(pytest.param(b, marks=wider) for b in WIDER)], ids=str
)
def test_the_protocol_holds(bounds: dict[str, Any]) -> None:
    model = Quorum(**bounds)
    result = search([model.initial], model.actions, broken, max_states=6_000_000)
    print(bounds, result)
    assert result.complete, result
    assert result.broken is None, result


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    model = Quorum(mistake, **MISTAKES[mistake])
    result = search([model.initial], model.actions, broken, max_states=100_000)
    print(mistake.name, result)
    assert result.broken, result
    assert result.path


def test_no_mistake_is_left_out() -> None:
    assert MISTAKES.keys() | {Mistake.NONE} == set(Mistake)
