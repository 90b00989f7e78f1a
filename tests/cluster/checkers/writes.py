"""Unique inserts: what was acknowledged is there once, what failed is not."""

from collections import Counter
from collections.abc import Iterable

from tests.cluster.checkers.history import Attempt

LOST = "acknowledged and lost"


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


def seen_and_gone(
    history: Iterable[Attempt], seen: Iterable[int], keys: Iterable[int]
) -> list[str]:
    """A key that a standby showed is there at the end, unless its insert is in doubt.

    In doubt it may go: a standby shows a commit before it is acknowledged.
    """
    outcomes = {attempt.key: attempt.outcome for attempt in history}
    there = set(keys)
    return [
        f"seen on a standby and not there at the end: {key} ({outcomes.get(key, 'never written')})"
        for key in sorted(set(seen))
        if outcomes.get(key) == "fail" or (key not in there and outcomes.get(key) != "unknown")
    ]
