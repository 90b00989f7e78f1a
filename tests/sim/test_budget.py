"""The same schedules everywhere; two cores play them in a minute or two.

The environment's SIM_SECONDS bounds the time; SIM_LAST is the last seed.
"""

import os

import pytest

from tests.sim.pool import cores, play_on_all_cores
from tests.sim.tally import Tally

SECONDS = float(os.environ.get("SIM_SECONDS", "240"))
LAST = int(os.environ.get("SIM_LAST", "2500"))


def test_nothing_is_lost_and_everything_heals(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    for _, part in play_on_all_cores(1, LAST, jobs=cores(), seconds=SECONDS):
        tally.add(part)
    with capsys.disabled():
        print(f" {tally.schedules} schedules, {tally.events} events, {tally.terms} terms", end="")
    bad = [f"seed {seed}: {problem}" for seed, problem in sorted(tally.bad.items())]
    assert not bad, "\n".join([*bad, "see pgregent-sim replay SEED, pgregent-sim shrink SEED"])
    assert not tally.missing(), "never struck"
    assert tally.schedules >= 20 and tally.events >= 500 * tally.schedules
