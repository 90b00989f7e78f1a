"""The joint rule change: nothing is lost within the bounds, and each planted mistake loses some."""

import os
from typing import Any

import pytest
from bfs import search
from rule_change import Mistake, RuleChange
from rule_change_state import ANY_1, ANY_2, THREE, broken, show

EMPTY, ONLY_B, ONLY_C = ANY_1[:3]

# Every one with any number of crashes and restarts at every step, and with a CAS that lands late.
BOUNDS: list[dict[str, Any]] = [
    {"rules": ANY_1, "changes": 1, "writes": 2, "barriers": 2},
    {"rules": ANY_2, "changes": 1, "writes": 2, "barriers": 2},
    {"rules": (EMPTY, ONLY_B, ONLY_C), "changes": 2, "writes": 1, "barriers": 2},
    {"rules": (ONLY_B, *ANY_2[2:]), "changes": 2, "writes": 1, "barriers": 2},
    {"rules": (EMPTY, ONLY_B, ANY_2[-1]), "changes": 2, "writes": 1, "barriers": 2},
    {"rules": THREE, "changes": 1, "writes": 1, "barriers": 1},
]
WIDER: list[dict[str, Any]] = [
    {"rules": THREE, "changes": 2, "writes": 1, "barriers": 1},
    {"rules": ANY_2, "changes": 2, "writes": 1, "barriers": 2},
]
wider = pytest.mark.skipif("MODEL_WIDER" not in os.environ, reason="minutes; MODEL_WIDER=1 runs it")

MISTAKES: dict[Mistake, dict[str, Any]] = {
    Mistake.NAMES_BEFORE_CAS: {},
    Mistake.RULES_REPLACED: {},
    Mistake.DROP_BEFORE_BARRIER: {},
    Mistake.BARRIER_BEFORE_RELOAD: {},
    Mistake.NO_CHECKPOINT: {},
    Mistake.CHECKPOINT_DUE_FORGOTTEN: {"changes": 2},
    Mistake.MIXTURE_NOT_LISTED: {"rules": ANY_2},
    Mistake.MIXTURE_OF_THE_LAST_TWO: {"rules": THREE, "changes": 2, "barriers": 1},
    Mistake.STALE_WALSENDER_LEFT: {"rules": ANY_2},
    Mistake.STALE_WALSENDER_OF_A_DROPPED_RULE: {
        "rules": (EMPTY, ONLY_B, ANY_2[-1]),
        "changes": 2,
    },
    Mistake.OLD_NAMES_AT_RESTART: {},
    Mistake.LOST_CAS_TAKEN_AS_FAILED: {"rules": (ONLY_B, ONLY_C)},
    Mistake.UNDONE_BY_DROPPING_THE_NEWER: {},
}
HARMLESS = (Mistake.RESTART_WITHOUT_CAS, Mistake.RESTART_FROM_OWN_COPY)


def title(bounds: dict[str, Any]) -> str:
    rules = ", ".join(show(rule) for rule in bounds["rules"])
    return f"{rules}; " + ", ".join(f"{k} {v}" for k, v in bounds.items() if k != "rules")


@pytest.mark.parametrize(
    "bounds", [*BOUNDS, *(pytest.param(b, marks=wider) for b in WIDER)], ids=title
)
def test_the_protocol_holds(bounds: dict[str, Any]) -> None:
    model = RuleChange(**bounds)
    result = search(model.initial, model.actions, broken, max_states=6_000_000)
    print(title(bounds), result)
    assert result.complete, result
    assert result.broken is None, result


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    bounds: dict[str, Any] = {"changes": 1, "writes": 1, "barriers": 2, **MISTAKES[mistake]}
    model = RuleChange(mistake, **bounds)
    result = search(model.initial, model.actions, broken, max_states=300_000)
    print(mistake.name, result)
    assert result.broken, result
    assert result.path


@pytest.mark.parametrize("mistake", HARMLESS, ids=lambda m: m.name)
def test_what_loses_nothing_in_this_form(mistake: Mistake) -> None:
    """Names follow the last rule of a register that was seen: an older one lists no less.

    So a restart loses nothing when a CAS lands after its read, or when it reads only its own copy.
    The CAS of its own is for what is not in this model: to be told that it was superseded.
    """
    model = RuleChange(mistake, changes=1, writes=1, barriers=2)
    result = search(model.initial, model.actions, broken)
    print(mistake.name, result)
    assert result.complete, result
    assert result.broken is None, result


def test_no_mistake_is_left_out() -> None:
    assert MISTAKES.keys() | {*HARMLESS, Mistake.NONE} == set(Mistake)
