"""Registers: real executions are accepted, and each planted anomaly is seen."""

import time
from dataclasses import replace
from random import Random

import pytest

from tests.cluster.checkers import CompareAndSet, Outcome, Read, not_linearizable

Ops = list[Read | CompareAndSet]


def read(value: int, start: float, end: float, *, key: int = 0, locked: bool = False) -> Read:
    return Read(client=0, start=start, end=end, outcome="ok", key=key, value=value, locked=locked)


def cas(
    expected: int, new: int, start: float, end: float, outcome: Outcome = "ok"
) -> CompareAndSet:
    return CompareAndSet(
        client=0, start=start, end=end, outcome=outcome, key=0, expected=expected, new=new
    )


LAWFUL: dict[str, Ops] = {
    "one after the other": [read(0, 0, 1), cas(0, 1, 2, 3), read(1, 4, 5)],
    "a read beside a write sees either": [cas(0, 1, 0, 9), read(0, 1, 2), read(1, 3, 4)],
    "a write in doubt that took place late": [
        cas(0, 1, 0, 1, "unknown"), read(0, 2, 3), read(1, 4, 5),
    ],
    "a write in doubt that never did": [cas(0, 1, 0, 1, "unknown"), cas(0, 2, 2, 3), read(2, 4, 5)],
    "two in doubt, one of them seen": [
        cas(0, 1, 0, 1, "unknown"), cas(0, 2, 0, 1, "unknown"), read(0, 2, 3), read(2, 4, 5),
    ],
    "a write that failed": [cas(0, 1, 0, 1, "fail"), read(0, 2, 3)],
}  # fmt: skip
WRONG: dict[str, Ops] = {
    "a stale read": [cas(0, 1, 0, 1), read(0, 2, 3)],
    "a lost write": [cas(0, 1, 0, 1), read(1, 2, 3), read(0, 4, 5)],
    "a lost update": [cas(0, 1, 0, 1), cas(0, 2, 0, 1)],
    "an aborted write was read": [cas(0, 1, 0, 1, "fail"), read(1, 2, 3)],
    "a write came true and was undone": [
        cas(0, 1, 0, 1, "unknown"), read(1, 2, 3), cas(0, 2, 4, 5),
    ],
    "a read of what comes later": [read(1, 0, 1), cas(0, 1, 2, 3)],
    "a write in doubt was read before it was sent": [read(1, 0, 1), cas(0, 1, 2, 3, "unknown")],
    "a value from nowhere": [read(7, 0, 1)],
    "two reads of one write go back": [cas(0, 1, 0, 9), read(1, 1, 2), read(0, 3, 4)],
}  # fmt: skip


@pytest.mark.parametrize("name", LAWFUL)
def test_lawful(name: str) -> None:
    assert not_linearizable(LAWFUL[name]) == []


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str) -> None:
    (found,) = not_linearizable(WRONG[name])
    assert "not linearizable" in found


def test_keys_are_registers_of_their_own() -> None:
    assert not_linearizable([cas(0, 1, 0, 1), read(0, 2, 3, key=1)]) == []


def test_a_stale_read_is_lawful_within_the_lease_unless_it_was_locked() -> None:
    history: Ops = [cas(0, 1, 0, 1), read(0, 2, 3)]
    assert not_linearizable(history, stale_s=1.5) == []
    assert not_linearizable(history, stale_s=0.5)
    assert not_linearizable([cas(0, 1, 0, 1), read(0, 2, 3, locked=True)], stale_s=1.5)


def execution(random: Random, count: int, keys: int = 1) -> Ops:
    """Operations that took effect one after the other, each at a moment within its interval."""
    values = dict.fromkeys(range(keys), 0)
    ops: Ops = []
    for moment in range(1, count + 1):
        key = random.randrange(keys)
        start, end = moment - random.uniform(0, 4), moment + random.uniform(0, 4)
        outcome: Outcome = random.choice(("ok", "ok", "ok", "ok", "fail", "unknown"))
        if random.random() < 0.5:
            ops.append(read(values[key], start, end, key=key))
            continue
        guess = values[key] if random.random() < 0.9 else -1
        took_place = outcome == "ok" or (outcome == "unknown" and random.random() < 0.5)
        if took_place and guess != values[key]:
            ops.append(read(values[key], start, end, key=key, locked=True))
            continue
        ops.append(replace(cas(guess, moment, start, end, outcome), key=key))
        if took_place:
            values[key] = moment
    random.shuffle(ops)
    return ops


@pytest.mark.parametrize("seed", range(60))
def test_random_executions_are_accepted_and_their_mutants_are_not(seed: int) -> None:
    random = Random(seed)
    history = execution(random, 60)
    assert not_linearizable(history) == []
    done = [op for op in history if isinstance(op, CompareAndSet) and op.outcome == "ok"]
    last = max(op.end for op in history)
    overwritten = random.choice(done[:-1] if len(done) > 1 else done).expected
    lost = read(overwritten, last + 1, last + 2)
    assert not_linearizable([*history, lost]), "a value that was overwritten came back"
    twice = replace(random.choice(done), new=10_000)
    assert not_linearizable([*history, twice]), "two swaps of one value"


def test_a_round_is_checked_in_time() -> None:
    history = execution(Random(1), 5000, keys=80)
    began = time.process_time()
    assert not_linearizable(history) == []
    assert not_linearizable(history, stale_s=6.0) == []
    assert time.process_time() - began < 2.0
