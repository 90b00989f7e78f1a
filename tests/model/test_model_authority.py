"""Authority: nobody serves for longer than the lease after its successor opened."""

import os
from typing import Any

import pytest
from authority import Authority, Mistake, Rule
from bfs import search

ALONE, ONLY_B, ONLY_C = Rule(0), Rule(1, (0,)), Rule(1, (1,))
ANY_1, ANY_2, ANY_2_OF_3 = Rule(1, (0, 1)), Rule(2, (0, 1)), Rule(2, (0, 1, 2))

# Every one with any number of elections and cancellations, questions and answers; lease: 2 ticks.
BOUNDS: list[dict[str, Any]] = [
    {"rules": (ONLY_B,), "suspends": True},
    {"rules": (ANY_1,), "suspends": True, "dcs": False},
    {"rules": (ANY_2,), "suspends": True, "dcs": False},
    {"rules": (ONLY_B, ONLY_C), "changes": 1, "dcs": False},
    {"rules": (ALONE, ONLY_B), "changes": 2},
]
WIDER: list[dict[str, Any]] = [
    {"rules": (ONLY_B,), "suspends": True, "lease": 4},
    {"rules": (ANY_2,), "suspends": True},
    {"rules": (ANY_2_OF_3,), "dcs": False},
    {"rules": (ANY_1, ANY_2, ONLY_C), "changes": 1},
    {"rules": (ALONE, ONLY_B, ONLY_C), "changes": 2},
]
wider = pytest.mark.skipif("MODEL_WIDER" not in os.environ, reason="minutes; MODEL_WIDER=1 runs it")

SUSPENDS = {"rules": (ONLY_B,), "suspends": True}
MISTAKES: dict[Mistake, dict[str, Any]] = {
    Mistake.COUNTED_FROM_THE_REPLY: {},
    Mistake.GRANT_OF_ANY_TERM: {},
    Mistake.GRANT_BY_A_SEALED_MEMBER: {},
    Mistake.NEWEST_OF_K_GRANTS: {"rules": (ANY_2,)},
    Mistake.GRANTS_UNDER_ANY_LISTED_RULE: {"rules": (ONLY_B, ONLY_C), "changes": 1},
    Mistake.READ_OF_A_FOLLOWER: {},
    Mistake.DEADLINE_NOT_TOLD: {},
    Mistake.DROP_BEFORE_THE_GUARD_IS_TOLD: {"rules": (ALONE, ONLY_B), "changes": 1},
    Mistake.CLOCK_STOPS_IN_SUSPEND: SUSPENDS,
    Mistake.COUNTED_FROM_WAKING_UP: SUSPENDS,
}


@pytest.mark.parametrize(
    "bounds", [*BOUNDS, *(pytest.param(b, marks=wider) for b in WIDER)], ids=str
)
def test_the_protocol_holds(bounds: dict[str, Any]) -> None:
    model = Authority(**bounds)
    result = search([model.initial], model.actions, model.broken, max_states=4_000_000)
    print(bounds, result)
    assert result.complete, result
    assert result.broken is None, result


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    bounds: dict[str, Any] = {"rules": (ONLY_B,), **MISTAKES[mistake]}
    model = Authority(mistake, **bounds)
    result = search([model.initial], model.actions, model.broken, max_states=100_000)
    print(mistake.name, result)
    assert result.broken, result
    assert result.path


def test_no_mistake_is_left_out() -> None:
    assert MISTAKES.keys() | {Mistake.NONE} == set(Mistake)
