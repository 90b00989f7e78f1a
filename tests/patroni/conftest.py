"""The fixtures of the cluster tests, for those with Patroni itself: how long it takes is not
measured there, so they run beside others."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.cluster.conftest import bin_dir, pytest_runtest_makereport

__all__ = ["bin_dir", "pytest_runtest_makereport"]
