"""A DCS that forgets: nothing is lost within the bounds, and each planted mistake is found."""

import os
from typing import Any

import pytest
from amnesia import Amnesia
from amnesia_nodes import Mistake
from amnesia_state import broken
from bfs import search

# Every one with any number of crashes, restarts, elections and cancellations, and with members
# that are away for as long as they like.
BOUNDS: list[dict[str, Any]] = [
    {"lost_replies": True},
    {"losses": 2},
    {"handovers": True},
    {"nodes": 2, "terms": 3, "handovers": True, "lost_replies": True},
    {"nodes": 2, "alone": True, "changes": 2, "losses": 2, "lost_replies": True},
    {"nodes": 2, "blank": 1},
    {"nodes": 2, "backups": True, "losses": 2},
    {"elsewhere": True},
]
WIDER: list[dict[str, Any]] = [
    {"handovers": True, "lost_replies": True},
    {"changes": 1},
    {"changes": 1, "alone": True},
    {"losses": 2, "lost_replies": True},
    {"nodes": 2, "blank": 1, "lost_replies": True},
    {"nodes": 2, "terms": 3, "losses": 2, "handovers": True, "writes": 1, "lost_replies": True},
    {"backups": True},
]
wider = pytest.mark.skipif("MODEL_WIDER" not in os.environ, reason="minutes; MODEL_WIDER=1 runs it")

LOST = {"lost_replies": True}
MISTAKES: dict[Mistake, dict[str, Any]] = {
    Mistake.BY_ANYBODY: {"handovers": True, **LOST},
    Mistake.ABSENT_NOT_COUNTED: {},
    Mistake.ELECTION_OVERWRITTEN: {},
    Mistake.HANDOVER_FORGOTTEN: {"handovers": True, **LOST},
    Mistake.HEIR_AGREES: {"handovers": True, **LOST},
    Mistake.LOST_DROP_FORGOTTEN: {"nodes": 2, "alone": True, "changes": 1, **LOST},
    Mistake.ANY_COPY_AGREES: {},
    Mistake.LOSS_SEEN_BY_ONE: {"elsewhere": True, "losses": 0},
    Mistake.WORD_OF_BEFORE: {"nodes": 2, "losses": 2, "gap": 9, **LOST},
    Mistake.SAME_ROUND: {},
    Mistake.SAME_SEQ: {},
    Mistake.ANOTHER_CLUSTER_OVERWRITTEN: {"nodes": 2, "alone": True, "blank": 1},
    Mistake.BACKUP_OF_ANY_AGE: {"nodes": 2, "backups": True, "gap": 2},
}
HARMLESS = {Mistake.SAME_SEQ_AGREES}


@pytest.mark.parametrize(
    "bounds", [*BOUNDS, *(pytest.param(b, marks=wider) for b in WIDER)], ids=str
)
def test_the_protocol_holds(bounds: dict[str, Any]) -> None:
    model = Amnesia(**bounds)
    result = search([model.initial], model.actions, broken)
    print(bounds, result)
    assert result.complete, result
    assert result.broken is None, result


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    model = Amnesia(mistake, **MISTAKES[mistake])
    result = search([model.initial], model.actions, broken, max_states=300_000)
    print(mistake.name, result)
    assert result.broken, result
    assert result.path


def test_copies_may_be_told_by_their_seq_as_long_as_no_line_goes_on_from_an_older_one() -> None:
    """One seq, two registers: that takes a DCS that was set back and members who did not know."""
    model = Amnesia(Mistake.SAME_SEQ_AGREES, nodes=2, losses=2, changes=1, lost_replies=True)
    result = search([model.initial], model.actions, broken)
    print(result)
    assert result.complete, result
    assert result.broken is None, result


def test_no_mistake_is_left_out() -> None:
    assert MISTAKES.keys() | HARMLESS | {Mistake.NONE} == set(Mistake)
