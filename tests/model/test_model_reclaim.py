"""Taking the office back: it ends when nothing is acknowledged; planted mistakes go on for ever."""

import pytest
from bfs import search
from reclaim import Mistake, Reclaim, broken


def test_the_protocol_holds() -> None:
    model = Reclaim()
    result = search([model.initial], model.actions, broken)
    print(result)
    assert result.complete, result
    assert result.broken is None, result


@pytest.mark.parametrize("mistake", [m for m in Mistake if m.value > 1], ids=lambda m: m.name)
def test_a_mistake_is_found(mistake: Mistake) -> None:
    model = Reclaim(mistake)
    result = search([model.initial], model.actions, broken)
    print(mistake.name, result)
    assert result.broken, result
    assert result.path
