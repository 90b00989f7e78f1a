"""What must hold of a history of writes. Each checker returns violations; [] means it holds."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

LOST = "acknowledged and lost"
Outcome = Literal["ok", "fail", "unknown"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One insert of one key. Times are time.monotonic() seconds of the one client clock.

    `ok`: acknowledged without a warning. `fail`: surely not committed. `unknown`: all else.
    `timeline`: where the acknowledging transaction wrote its WAL; None unless `ok`.
    """

    key: int
    path: str
    start: float
    end: float
    outcome: Outcome
    timeline: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Outage:
    """Longest silence between acknowledgements, and from the fault to the end of it (seconds)."""

    gap: float
    resumed_after: float


def acknowledged(history: Iterable[Attempt]) -> list[Attempt]:
    """Return the acknowledged attempts in the order of their acknowledgement."""
    return sorted((a for a in history if a.outcome == "ok"), key=lambda a: a.end)


def lost_or_repeated(history: Iterable[Attempt], keys: Iterable[int]) -> list[str]:
    """Acknowledged: exactly once. In doubt: at most once. Failed or never written: not at all."""
    counts = Counter(keys)
    found: list[str] = []
    known: set[int] = set()
    for attempt in history:
        known.add(attempt.key)
        count = counts[attempt.key]
        match attempt.outcome:
            case "ok" if count == 0:
                found.append(f"{LOST}: {attempt}")
            case "fail" if count:
                found.append(f"reported as failed, but there: {attempt}")
            case _:
                pass
        if count > 1:
            found.append(f"{count} times there: {attempt}")
    found += [f"never written: {key}" for key in counts if key not in known]
    return found


def late_acknowledgements(history: Iterable[Attempt]) -> list[str]:
    """No attempt that began after an acknowledgement in a newer term may be acknowledged.

    A reply that was under way when the newer term began is lawful: it began earlier.
    """
    acks = acknowledged(history)
    first_end: dict[int, float] = {}
    for ack in acks:
        if ack.timeline is not None:
            first_end.setdefault(ack.timeline, ack.end)
    found: list[str] = []
    for ack in acks:
        newer = [
            term
            for term, end in first_end.items()
            if ack.timeline is not None and term > ack.timeline and end < ack.start
        ]
        if newer:
            found.append(f"acknowledged after term {max(newer)} had begun: {ack}")
    return found


def shared_terms(history: Iterable[Attempt], *through_entry: str) -> list[str]:
    """A term has one writer: two nodes reached directly never acknowledge in one timeline."""
    writers: dict[int, set[str]] = {}
    for ack in acknowledged(history):
        if ack.path not in through_entry and ack.timeline is not None:
            writers.setdefault(ack.timeline, set()).add(ack.path)
    return [
        f"term {term} had {len(paths)} writers: {', '.join(sorted(paths))}"
        for term, paths in sorted(writers.items())
        if len(paths) > 1
    ]


def outage(history: Iterable[Attempt], path: str, fault: float, until: float) -> Outage:
    """Measure the silence of one path around a fault; raises ValueError where no ack frames it."""
    ends = [a.end for a in acknowledged(history) if a.path == path]
    gaps = [(b - a, b) for a, b in pairwise(ends) if b > fault and a < until]
    if not gaps:
        raise ValueError(f"no acknowledgements on both sides of the fault ({len(ends)} in all)")
    gap, end = max(gaps)
    return Outage(gap, end - fault)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile: a value that was measured, never one between two."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)
