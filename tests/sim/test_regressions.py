"""What the search once found: every tape that is kept has to end well."""

from pathlib import Path

import pytest

from tests.sim.schedule import replay
from tests.sim.tapefile import REGRESSIONS, load


@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("*.json")), ids=lambda path: path.stem)
def test_ends_well(path: Path) -> None:
    tape, shows = load(path)
    assert shows, "it has to say what it once showed"
    outcome = replay(tape)
    assert not outcome.problem, f"{outcome.problem}\n{outcome.transcript[-6000:]}"
