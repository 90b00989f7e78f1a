"""The bank: real executions are accepted, and each planted anomaly is seen."""

import time
from dataclasses import dataclass, field, replace
from random import Random

import pytest

from tests.cluster.checkers import Balances, Entry, Outcome, Transfer, wrong_sums

OPENING = dict.fromkeys(range(4), 100)


@dataclass
class Played:
    """A history and what it left."""

    history: list[Transfer | Balances] = field(default_factory=list[Transfer | Balances])
    closing: dict[int, int] = field(default_factory=lambda: dict(OPENING))
    ledger: list[Entry] = field(default_factory=list[Entry])

    def problems(self) -> list[str]:
        return wrong_sums(self.history, OPENING, self.closing, self.ledger)


def look(balances: dict[int, int], outcome: Outcome = "ok", standby: bool = False) -> Balances:
    shown = tuple(balances.items())
    return Balances(client=0, start=0, end=0, outcome=outcome, balances=shown, standby=standby)


def play(seed: int, count: int = 200) -> Played:
    random, played = Random(seed), Played()
    for number in range(count):
        if random.random() < 0.3:
            played.history.append(look(played.closing, standby=random.random() < 0.3))
            continue
        source, target = random.sample(sorted(OPENING), 2)
        entry = Entry(number, source, target, random.randint(0, played.closing[source]))
        outcome: Outcome = random.choice(("ok", "ok", "fail", "unknown"))
        op = Transfer(client=0, start=number, end=number, outcome=outcome, entry=entry)
        played.history.append(op)
        if outcome == "ok" or (outcome == "unknown" and random.random() < 0.5):
            played.closing[source] -= entry.amount
            played.closing[target] += entry.amount
            played.ledger.append(entry)
    return played


def of(played: Played, outcome: Outcome) -> Transfer:
    return next(
        op
        for op in played.history
        if isinstance(op, Transfer) and op.outcome == outcome and op.entry.amount
    )


@pytest.mark.parametrize("seed", range(30))
def test_random_executions_are_accepted(seed: int) -> None:
    assert play(seed).problems() == []


@pytest.mark.parametrize("standby", [False, True])
def test_half_a_transfer_was_read(standby: bool) -> None:
    played = play(1)
    played.history.append(look({**OPENING, 0: 90}, standby=standby))
    (found,) = played.problems()
    assert "a sum of 390" in found


def test_a_read_that_failed_does_not_count() -> None:
    played = play(1)
    played.history.append(look({}, "fail"))
    assert played.problems() == []


def test_accounts_are_missing_or_overdrawn() -> None:
    played = Played()
    played.history.append(look({0: 400}))
    assert any("accounts [0]" in text for text in played.problems())
    played.history = [look({0: -1, 1: 201, 2: 100, 3: 100})]
    assert any("a balance of -1" in text for text in played.problems())


@pytest.mark.parametrize("seed", range(10))
def test_an_acknowledged_transfer_is_lost(seed: int) -> None:
    played = play(seed)
    entry = of(played, "ok").entry
    played.ledger.remove(entry)
    played.closing[entry.source] += entry.amount
    played.closing[entry.target] -= entry.amount
    assert any("acknowledged and lost" in text for text in played.problems())


def test_half_a_transfer_is_lost() -> None:
    played = play(2)
    entry = of(played, "ok").entry
    played.closing[entry.source] += entry.amount
    found = played.problems()
    assert any("the ledger leads to" in text for text in found)
    assert any("at the end a sum of" in text for text in found)


def test_a_transfer_that_failed_is_there() -> None:
    played = play(3)
    played.ledger.append(of(played, "fail").entry)
    assert any("reported as failed" in text for text in played.problems())


def test_a_transfer_is_there_twice_or_nobodys() -> None:
    played = play(4)
    played.ledger.append(played.ledger[0])
    assert any("2 times in the ledger" in text for text in played.problems())
    played = play(4)
    played.ledger.append(replace(played.ledger[0], number=9999))
    assert any("nobody's transfer" in text for text in played.problems())


def test_a_round_is_checked_in_time() -> None:
    played = play(5, count=5000)
    began = time.process_time()
    assert played.problems() == []
    assert time.process_time() - began < 2.0
