"""Figures and Markdown tables of the benchmark; progress goes to standard error."""

import os
import platform
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.checkers import median, percentile
from tests.cluster.nodes import Nodes


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def explained(cluster: Nodes) -> Generator[None]:
    """Show the ends of the cluster's logs where a measurement fails."""
    try:
        yield
    except BaseException:
        say(cluster.tail())
        raise


@dataclass(frozen=True, slots=True)
class Figures:
    """Measured values of one kind, in the unit of their table."""

    values: Sequence[float]

    def cells(self, digits: int = 0) -> list[str]:
        """Return count, median, 95th percentile and worst as text; dashes where none."""
        if not self.values:
            return ["0", "-", "-", "-"]
        found = (median(self.values), percentile(self.values, 95), max(self.values))
        return [str(len(self.values)), *(f"{value:.{digits}f}" for value in found)]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, numbers right-aligned."""
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine(bin_dir: Path) -> str:
    """Return one sentence about where the figures come from."""
    version = subprocess.run(
        [bin_dir / "postgres", "--version"], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    model = names[0] if names else platform.machine()
    load = os.getloadavg()[0]
    return (
        f"{version}; Python {platform.python_version()}; {os.cpu_count()} cores ({model});"
        f" load {load:.1f} at the start"
    )
