"""Fixtures of the cluster tests, and the ends of the logs in the report of a failure."""

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import cast

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.cluster import servers
from tests.cluster.cluster import Cluster
from tests.cluster.plain import PlainCluster
from tests.cluster.trial import Trials


@pytest.fixture(scope="session")
def bin_dir() -> Path:
    """Return the binaries that the full suite runs on."""
    try:
        return servers.full()[1]
    except LookupError as error:
        pytest.skip(str(error))


class Keeper:
    """A cluster for the tests of a module; a new one where a test left it broken."""

    def __init__(self, bin_dir: Path, nodes: int) -> None:
        self._bin_dir = bin_dir
        self._nodes = nodes
        self._trials: Trials | None = None

    def trials(self) -> Trials:
        if self._trials and self._broken(self._trials.cluster):
            self.close()
        if not self._trials:
            cluster = Cluster(self._bin_dir, self._nodes).__enter__()
            self._trials = Trials(cluster)
            cluster.wait_healthy()
        return self._trials

    def _broken(self, cluster: Cluster) -> bool:
        try:
            cluster.wait_healthy(timeout=5)
        except AssertionError:
            return True
        return False

    def close(self) -> None:
        trials, self._trials = self._trials, None
        if trials:
            trials.cluster.close()


@pytest.fixture(scope="module")
def keeper(request: pytest.FixtureRequest, bin_dir: Path) -> Iterator[Keeper]:
    """Three nodes, or as many as the module's NODES says."""
    module = cast(object, request.module)  # pyright: ignore[reportUnknownMemberType]
    found = Keeper(bin_dir, int(getattr(module, "NODES", 3)))
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
            cluster = argument.cluster if isinstance(argument, Trials) else argument
            if isinstance(cluster, Cluster):
                report.sections.append(("logs of the cluster", cluster.tail()))
    return report
