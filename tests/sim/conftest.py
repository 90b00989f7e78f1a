"""The simulator's modules import each other as tests.sim, from the checkout's root."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture(autouse=True)
def _no_snapshot_outlives_a_planted_mistake() -> Iterator[None]:
    from tests.sim import snapshot

    yield
    snapshot.taken.cache_clear()
