"""Who acknowledged when: never two nodes in one term, never an older term after a newer one.

A term is a timeline. Sound for writes: a COMMIT that is sent after somebody had an answer from a
newer term reaches a node that can get no acknowledgement any more. Not checked, since it is lawful:
an old term's *answer* that arrives late, and what a cut-off primary still lets people read (see
`stale_reads` for how long).
"""

from collections.abc import Iterable, Sequence

from tests.cluster.checkers.history import Answered, Attempt
from tests.cluster.checkers.writes import acknowledged


def terms(writes: Iterable[Answered]) -> list[str]:
    """Return what is wrong with the terms of all acknowledged writes, of any workload."""
    writes = [write for write in writes if write.outcome == "ok"]
    return late_acknowledgements(writes) + writers_of_terms(writes)


def late_acknowledgements(history: Iterable[Answered]) -> list[str]:
    """No attempt that began after an acknowledgement in a newer term may be acknowledged.

    A reply that was under way when the newer term began is lawful: it began earlier.
    """
    acks = sorted((a for a in history if a.outcome == "ok"), key=lambda a: a.end)
    first_end = _first_ends(acks)
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


def writers_of_terms(history: Iterable[Answered]) -> list[str]:
    """A term has one writer: all its acknowledgements name the same node."""
    writers: dict[int, set[str]] = {}
    for ack in history:
        if ack.outcome == "ok" and ack.timeline is not None:
            writers.setdefault(ack.timeline, set()).add(ack.node)
    return _shared(writers)


def shared_terms(history: Iterable[Attempt], *through_entry: str) -> list[str]:
    """A term has one writer: two nodes reached directly never acknowledge in one timeline."""
    writers: dict[int, set[str]] = {}
    for ack in acknowledged(history):
        if ack.path not in through_entry and ack.timeline is not None:
            writers.setdefault(ack.timeline, set()).add(ack.path)
    return _shared(writers)


def stale_reads(
    reads: Iterable[Answered], writes: Iterable[Answered], lease_s: float
) -> tuple[list[str], list[str]]:
    """Reads that an older term answered after a newer one had acknowledged a write.

    Return those within `lease_s` of that, which a cut-off primary may serve, and those beyond it.
    """
    acks = sorted((a for a in writes if a.outcome == "ok"), key=lambda a: a.end)
    first_end = _first_ends(acks)
    lawful: list[str] = []
    found: list[str] = []
    for read in reads:
        if read.outcome != "ok" or read.timeline is None:
            continue
        newer = [end for term, end in first_end.items() if term > read.timeline]
        age = read.start - min(newer, default=read.start)
        if age > 0:
            text = f"stale read, {age:.3f} s after a newer term had begun: {read}"
            (lawful if age <= lease_s else found).append(text)
    return lawful, found


def _first_ends(acks: Sequence[Answered]) -> dict[int, float]:
    first_end: dict[int, float] = {}
    for ack in acks:
        if ack.timeline is not None:
            first_end.setdefault(ack.timeline, ack.end)
    return first_end


def _shared(writers: dict[int, set[str]]) -> list[str]:
    return [
        f"term {term} had {len(names)} writers: {', '.join(sorted(names))}"
        for term, names in sorted(writers.items())
        if len(names) > 1
    ]
