"""The election: nothing is lost within the bounds, and each planted mistake loses something."""

import os
from typing import Any

import pytest
from bfs import search
from election import Election
from election_nodes import Mistake
from election_state import broken

# Every one with any number of crashes, restarts, elections and cancellations; terms <= 3.
BOUNDS: list[dict[str, Any]] = [
    {"lost_replies": True, "writes": 0},
    {"ineligible": (2,)},
    {"recreations": 1, "writes": 0},
    {"changes": 1, "writes": 0},
    {"handovers": True, "writes": 0, "lost_replies": True},
    {"terms": 2, "writes": 2, "recreations": 1},
]
WIDER: list[dict[str, Any]] = [
    {"lost_replies": True},
    {"writes": 2},
    {"writes": 2, "terms": 2, "recreations": 1, "changes": 1, "lost_replies": True},
    {"recreations": 1},
    {"changes": 1},
    {"recreations": 1, "changes": 1, "writes": 0},
    {"handovers": True, "ineligible": (1,)},
]
wider = pytest.mark.skipif("MODEL_WIDER" not in os.environ, reason="minutes; MODEL_WIDER=1 runs it")

MISTAKES: dict[Mistake, dict[str, Any]] = {
    Mistake.SEAL_NOT_FSYNCED: {},
    Mistake.VOTE_BEFORE_WALRECEIVER_GONE: {},
    Mistake.NO_BARRIER: {},
    Mistake.RULES_REPLACED_AT_APPOINTMENT: {},
    Mistake.TERM_BLIND: {},
    Mistake.ONE_SEAL_TOO_FEW: {},
    Mistake.INELIGIBLE_SKIPPED: {"ineligible": (2,)},
    Mistake.PROMOTION_NOT_STOPPED: {},
    Mistake.VOTES_COUNTED_BY_NAME: {"recreations": 1, "writes": 0},
    Mistake.OFFICE_BY_NAME: {"recreations": 1},
    Mistake.HANDED_OVER_UNPROVEN: {"handovers": True},
    Mistake.SEAL_LIFTED_ON_A_TIMEOUT: {},
    Mistake.VOTES_OF_A_CANCELLED_ELECTION: {},
    Mistake.CHANGE_WITHOUT_VERSION: {},
}
HARMLESS = {Mistake.START_WITHOUT_CAS}


@pytest.mark.parametrize(
    "bounds", [*BOUNDS, *(pytest.param(b, marks=wider) for b in WIDER)], ids=str
)
def test_the_protocol_holds(bounds: dict[str, Any]) -> None:
    model = Election(**bounds)
    result = search([model.initial], model.actions, broken)
    print(bounds, result)
    assert result.complete, result
    assert result.broken is None, result


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    model = Election(mistake, **MISTAKES[mistake])
    result = search([model.initial], model.actions, broken, max_states=300_000)
    print(mistake.name, result)
    assert result.broken, result
    assert result.path


def test_a_start_without_a_cas_of_its_own_loses_nothing_here() -> None:
    """Seals keep a superseded primary from acknowledging; the CAS keeps it from serving at all."""
    model = Election(Mistake.START_WITHOUT_CAS)
    result = search([model.initial], model.actions, broken)
    print(result)
    assert result.complete, result
    assert result.broken is None, result


def test_no_mistake_is_left_out() -> None:
    assert MISTAKES.keys() | HARMLESS | {Mistake.NONE} == set(Mistake)
