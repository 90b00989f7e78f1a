"""The labs in which every scenario runs: the simulator under some seeds, and real servers."""

from collections.abc import AsyncGenerator
from functools import partial

import pytest

from tests.conformance import pg
from tests.conformance.fakes.lab import Lab, LabMaker
from tests.conformance.fakes.lab_real import real_lab
from tests.conformance.fakes.lab_simulated import simulated_lab

SEEDS = range(4)
SEEDS_OF_WHAT_CAN_HAPPEN = range(100)
FAKES: list[LabMaker] = [partial(simulated_lab, seed) for seed in SEEDS]
FOUND = {"PostgreSQL 15": pg.system_bin_dir(), "the wheel's PostgreSQL": pg.wheel_bin_dir()}
REAL = [
    pytest.param(partial(real_lab, path), id=f"real-{path.parent.name}")
    if path is not None
    else pytest.param(None, marks=pytest.mark.skip(reason=f"{what} is not installed"))
    for what, path in FOUND.items()
]
LABS = [*(pytest.param(make, id=f"fake{seed}") for seed, make in zip(SEEDS, FAKES, strict=True))]


@pytest.fixture(params=[*LABS, *REAL])
async def lab(request: pytest.FixtureRequest) -> AsyncGenerator[Lab]:
    """One lab: what has to be so in every one of them."""
    async with request.param() as made:
        yield made


@pytest.fixture(
    params=[
        pytest.param([partial(simulated_lab, n) for n in SEEDS_OF_WHAT_CAN_HAPPEN], id="fakes"),
        *(pytest.param([p.values[0]], id=p.id, marks=p.marks) for p in REAL),
    ]
)
def labs(request: pytest.FixtureRequest) -> list[LabMaker]:
    """Some labs: what can happen has to happen in one of them."""
    return request.param
