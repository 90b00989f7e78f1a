"""Directories and clusters for the command line's tests, with everything removed afterwards."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgregent.cli.cluster_dir import ClusterDir, Node, Server
from pgregent.cli.ports import pick_free


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory that any user can enter."""
    path = Path(tempfile.mkdtemp(prefix="pgregent-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def cluster(place: Path) -> ClusterDir:
    """Three nodes on free ports; nothing is made on disk."""
    ports = pick_free(8, set())
    return ClusterDir(
        path=place / "cluster",
        scope="demo",
        nodes=tuple(Node(f"n{i + 1}", ports[i], ports[3 + i]) for i in range(3)),
        entry_port=ports[6],
        entry_ro_port=ports[7],
        server=Server("system", "/opt/pg/bin", "15.20", "/opt/pg/bin"),
        hold_timeout=15.0,
        created=1700000000.0,
    )
