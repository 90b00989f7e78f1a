"""How long nothing was acknowledged."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.cluster.checkers.history import Attempt
from tests.cluster.checkers.writes import acknowledged


@dataclass(frozen=True, slots=True)
class Outage:
    """Longest silence between acknowledgements, and from the fault to the end of it (seconds)."""

    gap: float
    resumed_after: float


def outage(history: Iterable[Attempt], path: str, fault: float, until: float) -> Outage:
    """Measure the silence of one path around a fault; raises ValueError where no ack frames it."""
    ends = [a.end for a in acknowledged(history) if a.path == path]
    gaps = [(b - a, b) for a, b in pairwise(ends) if b > fault and a < until]
    if not gaps:
        raise ValueError(f"no acknowledgements on both sides of the fault ({len(ends)} in all)")
    gap, end = max(gaps)
    return Outage(gap, end - fault)


def progress(acked_times: Iterable[float], healed_at: float, within: float = 2.0) -> list[str]:
    """Something must be acknowledged after `healed_at` and within `within` seconds of it."""
    after = [moment - healed_at for moment in acked_times if moment > healed_at]
    if after and min(after) <= within:
        return []
    first = f"the first came after {min(after):.3f} s" if after else "nor ever after"
    return [f"nothing acknowledged within {within:g} s of healing: {first}"]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile: a value that was measured, never one between two."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)
