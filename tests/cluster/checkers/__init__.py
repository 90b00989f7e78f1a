"""What must hold of a history. Each checker returns violations; [] means it holds."""

from tests.cluster.checkers.appends import not_serializable
from tests.cluster.checkers.bank import Balances, Entry, Transfer, wrong_sums
from tests.cluster.checkers.history import Answered, Attempt, Op, Outcome
from tests.cluster.checkers.lists import Append, ReadList, Transaction
from tests.cluster.checkers.registers import CompareAndSet, Read, not_linearizable
from tests.cluster.checkers.terms import (
    late_acknowledgements,
    shared_terms,
    stale_reads,
    terms,
    writers_of_terms,
)
from tests.cluster.checkers.timing import Outage, median, outage, percentile, progress
from tests.cluster.checkers.writes import LOST, acknowledged, lost_or_repeated, seen_and_gone

__all__ = [
    "LOST",
    "Answered",
    "Append",
    "Attempt",
    "Balances",
    "CompareAndSet",
    "Entry",
    "Op",
    "Outage",
    "Outcome",
    "Read",
    "ReadList",
    "Transaction",
    "Transfer",
    "acknowledged",
    "late_acknowledgements",
    "lost_or_repeated",
    "median",
    "not_linearizable",
    "not_serializable",
    "outage",
    "percentile",
    "progress",
    "seen_and_gone",
    "shared_terms",
    "stale_reads",
    "terms",
    "writers_of_terms",
    "wrong_sums",
]
