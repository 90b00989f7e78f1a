"""A bank: transfers move money, nobody ever sees another sum, and the ledger explains the rest."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.cluster.checkers.history import Op
from tests.cluster.checkers.writes import LOST


@dataclass(frozen=True, slots=True)
class Entry:
    """One transfer; `number` is its own."""

    number: int
    source: int
    target: int
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Op):
    """Two balances changed and one row of the ledger written, in one transaction."""

    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Balances(Op):
    """All balances by account, as one snapshot showed them, on a standby or not."""

    balances: tuple[tuple[int, int], ...]
    standby: bool = False


def wrong_sums(
    history: Iterable[Transfer | Balances],
    opening: Mapping[int, int],
    closing: Mapping[int, int],
    ledger: Sequence[Entry],
) -> list[str]:
    """Compare every read and the `closing` balances with the `opening` ones and the ledger."""
    history = list(history)
    total = sum(opening.values())
    found = [
        f"{problem} instead of {len(opening)} accounts with {total} in all: {op}"
        for op in history
        if isinstance(op, Balances) and op.outcome == "ok"
        for problem in _problems(dict(op.balances), opening)
    ]
    explained = Counter(opening)
    for entry in ledger:
        explained[entry.source] -= entry.amount
        explained[entry.target] += entry.amount
    if dict(explained) != dict(closing):
        found.append(f"the ledger leads to {dict(explained)}, but there is {dict(closing)}")
    found += [f"at the end {problem}" for problem in _problems(closing, opening)]
    return found + _entries([op for op in history if isinstance(op, Transfer)], ledger)


def _problems(balances: Mapping[int, int], opening: Mapping[int, int]) -> list[str]:
    found: list[str] = []
    if balances.keys() != opening.keys():
        found.append(f"accounts {sorted(balances)}")
    if sum(balances.values()) != sum(opening.values()):
        found.append(f"a sum of {sum(balances.values())}")
    found += [f"a balance of {value}" for value in balances.values() if value < 0]
    return found


def _entries(transfers: Sequence[Transfer], ledger: Sequence[Entry]) -> list[str]:
    counts = Counter(ledger)
    found = [f"{count} times in the ledger: {e}" for e, count in counts.items() if count > 1]
    for op in transfers:
        if op.outcome == "ok" and not counts[op.entry]:
            found.append(f"{LOST}: {op}")
        if op.outcome == "fail" and counts[op.entry]:
            found.append(f"reported as failed, but there: {op}")
    unknown = counts.keys() - {op.entry for op in transfers}
    return found + [f"nobody's transfer: {entry}" for entry in unknown]
