"""Fixtures of the cluster tests, and the ends of the logs in the report of a failure."""

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import cast

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.cluster import servers
from tests.cluster.cluster import Cluster
from tests.cluster.nodes import Nodes
from tests.cluster.plain import PlainCluster
from tests.cluster.production.demo import Demo
from tests.cluster.trial import Keeper, Trials


@pytest.fixture(scope="session")
def bin_dir() -> Path:
    """Return the binaries that the full suite runs on."""
    try:
        return servers.full()[1]
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def keeper(request: pytest.FixtureRequest, bin_dir: Path) -> Iterator[Keeper]:
    """Three nodes, or as many as the module's NODES says."""
    module = cast(object, request.module)  # pyright: ignore[reportUnknownMemberType]
    nodes = int(getattr(module, "NODES", 3))
    found = Keeper(lambda: Cluster(bin_dir, nodes))
    yield found
    found.close()


@pytest.fixture
def trials(keeper: Keeper) -> Trials:
    """The module's cluster, whole, with the history of what was written to it."""
    return keeper.trials()


@pytest.fixture
def plain(bin_dir: Path) -> Iterator[PlainCluster]:
    """One plain server, without pgregent."""
    with PlainCluster(bin_dir, nodes=1) as found:
        yield found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        arguments: dict[str, object] = getattr(item, "funcargs", {})
        for argument in arguments.values():
            cluster = getattr(argument, "cluster", argument)
            if isinstance(cluster, Nodes):
                report.sections.append(("logs of the cluster", cluster.tail()))
            elif isinstance(argument, Demo):
                report.sections.append(("logs of the hosts", argument.logs()))
    return report
