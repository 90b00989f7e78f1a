"""Lists: serial executions are accepted, and each anomaly is seen under its name."""

import time
from dataclasses import replace
from random import Random

import pytest

from tests.cluster.checkers import Append, Outcome, ReadList, Transaction, not_serializable
from tests.cluster.checkers.graph import components

Lists = dict[int, tuple[int, ...]]
X, Y = 0, 1


def a(key: int, value: int) -> Append:
    return Append(key, value)


def r(key: int, *values: int) -> ReadList:
    return ReadList(key, values)


def txn(*steps: Append | ReadList, outcome: Outcome = "ok", standby: bool = False) -> Transaction:
    return Transaction(client=0, start=0, end=0, outcome=outcome, steps=steps, standby=standby)


LAWFUL: dict[str, tuple[list[Transaction], Lists]] = {
    "nothing": ([], {}),
    "its own appends are seen": (
        [txn(a(X, 1)), txn(r(X, 1), a(X, 2), a(X, 3), r(X, 1, 2, 3))], {X: (1, 2, 3)},
    ),
    "in doubt and there": ([txn(a(X, 1), outcome="unknown"), txn(r(X, 1))], {X: (1,)}),
    "in doubt and not there": ([txn(a(X, 1), outcome="unknown"), txn(r(X))], {X: ()}),
    "failed": ([txn(a(X, 1), outcome="fail"), txn(r(X), a(X, 2))], {X: (2,)}),
    "what a failed one read does not count": ([txn(r(X, 9), outcome="fail")], {}),
    "a standby is behind": (
        [txn(a(X, 1)), txn(a(X, 2)), txn(r(X, 1), standby=True), txn(r(X), standby=True)],
        {X: (1, 2)},
    ),
    "a standby showed what was in doubt": (
        [txn(a(X, 1)), txn(a(X, 2), outcome="unknown"), txn(r(X, 1, 2), standby=True)], {X: (1,)},
    ),
    "a standby is at no one place in the order of the primary": (
        [txn(a(X, 1)), txn(a(Y, 2)), txn(r(X, 1), r(Y)), txn(r(X), r(Y, 2), standby=True)],
        {X: (1,), Y: (2,)},
    ),
}  # fmt: skip
WRONG: dict[str, tuple[list[Transaction], Lists, str]] = {
    "lost": ([txn(a(X, 1)), txn(a(X, 2))], {X: (1,)}, "acknowledged and lost"),
    "lost, and nothing is left": ([txn(a(X, 1))], {}, "acknowledged and lost"),
    "twice": ([txn(a(X, 1))], {X: (1, 1)}, "duplicates"),
    "failed, but there": (
        [txn(a(X, 1), outcome="fail")], {X: (1,)}, "reported as failed, but there",
    ),
    "nobody's": ([txn(a(X, 1))], {X: (1, 7)}, "nobody's append"),
    "G0": (
        [txn(a(X, 1), a(Y, 2)), txn(a(X, 3), a(Y, 4))], {X: (1, 3), Y: (4, 2)}, "G0: ",
    ),
    "G1a": ([txn(a(X, 1), outcome="fail"), txn(r(X, 1))], {X: ()}, "G1a"),
    "G1a on a standby": (
        [txn(a(X, 1), outcome="fail"), txn(r(X, 1), standby=True)], {X: ()}, "G1a",
    ),
    "G1b": ([txn(a(X, 1), a(X, 2)), txn(r(X, 1))], {X: (1, 2)}, "G1b"),
    "G1b behind its own": (
        [txn(a(X, 1), a(X, 2)), txn(a(X, 3), r(X, 1, 3))], {X: (1, 3, 2)}, "G1b",
    ),
    "G1c": (
        [txn(a(X, 1), r(Y, 2)), txn(a(Y, 2), r(X, 1))], {X: (1,), Y: (2,)}, "G1c: ",
    ),
    "G-single: a torn read": (
        [txn(a(X, 1), a(Y, 2)), txn(r(X, 1), r(Y))], {X: (1,), Y: (2,)}, "G-single: ",
    ),
    "G-single: a lost update": (
        [txn(r(X), a(X, 1)), txn(r(X), a(X, 2))], {X: (1, 2)}, "G-single: ",
    ),
    "G2: write skew": (
        [txn(r(X), a(Y, 1)), txn(r(Y), a(X, 2))], {X: (2,), Y: (1,)}, "G2: ",
    ),
    "G2 with one in doubt that is there": (
        [txn(r(X), a(Y, 1)), txn(r(Y), a(X, 2)), txn(a(X, 3), outcome="unknown")],
        {X: (2, 3), Y: (1,)}, "G2: ",
    ),
    "long fork": (
        [txn(a(X, 1)), txn(a(Y, 2)), txn(r(X, 1), r(Y)), txn(r(X), r(Y, 2))],
        {X: (1,), Y: (2,)}, "G2: ",
    ),
    "inconsistent within itself": (
        [txn(a(X, 1)), txn(a(X, 2), r(X, 1))], {X: (1, 2)}, "inconsistent within itself",
    ),
    "two orders": (
        [txn(a(X, 1)), txn(a(X, 2)), txn(r(X, 2))], {X: (1, 2)}, "incompatible orders",
    ),
    "read and lost": (
        [txn(a(X, 1)), txn(a(X, 2), outcome="unknown"), txn(r(X, 1, 2))], {X: (1,)},
        "read at the entry point and lost",
    ),
    "seen on a standby in another order": (
        [txn(a(X, 1)), txn(a(X, 2)), txn(r(X, 2, 1), standby=True)], {X: (1, 2)},
        "seen on a standby",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAWFUL)
def test_lawful(name: str) -> None:
    history, final = LAWFUL[name]
    assert not_serializable(history, final) == []


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str) -> None:
    history, final, anomaly = WRONG[name]
    found = not_serializable(history, final)
    assert any(anomaly in text for text in found), found


def serial(random: Random, count: int) -> tuple[list[Transaction], Lists]:
    """Transactions one after the other, some of them on a snapshot that a standby kept."""
    history: list[Transaction] = []
    lists: Lists = {}
    value = 0
    for number in range(count):
        keys = range(number // 40 * 4, number // 40 * 4 + 4)
        if random.random() < 0.1:
            history.append(txn(*(r(k, *lists.get(k, ())) for k in keys), standby=True))
            continue
        after, steps = dict(lists), list[Append | ReadList]()
        for _ in range(random.randint(1, 4)):
            key = random.choice(keys)
            if random.random() < 0.5:
                steps.append(r(key, *after.get(key, ())))
                continue
            value += 1
            steps.append(a(key, value))
            after[key] = (*after.get(key, ()), value)
        outcome: Outcome = random.choice(("ok", "ok", "ok", "ok", "fail", "unknown"))
        history.append(txn(*steps, outcome=outcome))
        if outcome == "ok" or (outcome == "unknown" and random.random() < 0.5):
            lists = after
    random.shuffle(history)
    return history, lists


@pytest.mark.parametrize("seed", range(40))
def test_serial_executions_are_accepted_and_their_mutants_are_not(seed: int) -> None:
    random = Random(seed)
    history, final = serial(random, 120)
    assert not_serializable(history, final) == []
    writers = [t for t in history if t.outcome == "ok" and t.appends()]
    lost = random.choice(writers).appends()[0]
    without = tuple(v for v in final[lost.key] if v != lost.value)
    assert not_serializable(history, {**final, lost.key: without}), "an append is gone"
    key = random.choice([k for k, values in final.items() if len(values) > 1])
    turned = (*final[key][:-2], final[key][-1], final[key][-2])
    readers = [t for t in history if t.outcome == "ok" and r(key, *final[key]) in t.others()]
    if readers:
        assert not_serializable(history, {**final, key: turned}), "two appends changed places"
    failed = replace(random.choice(writers), outcome="fail")
    planted = [failed if t.appends() == failed.appends() else t for t in history]
    assert not_serializable(planted, final), "what failed is there"


def test_a_cycle_is_told_with_its_way() -> None:
    history, final, _ = WRONG["G2: write skew"]
    (found,) = not_serializable(history, final)
    assert "T0 -rw-> T1 -rw-> T0" in found


@pytest.mark.parametrize("seed", range(40))
def test_components_are_what_reaches_each_other(seed: int) -> None:
    random = Random(seed)
    nodes = range(12)
    graph = {n: random.sample(nodes, random.randint(0, 2)) for n in nodes if random.random() < 0.9}

    def reached(start: int) -> set[int]:
        found, todo = set[int](), [start]
        while todo:
            for successor in set(graph.get(todo.pop(), ())) - found:
                found.add(successor)
                todo.append(successor)
        return found

    reach = {n: reached(n) for n in nodes}
    expected = {
        frozenset(m for m in nodes if m == n or (m in reach[n] and n in reach[m])) for n in nodes
    }
    found = {frozenset(component) for component in components(graph)}
    assert found == {component for component in expected if len(component) > 1}


def test_a_round_is_checked_in_time() -> None:
    history, final = serial(Random(1), 5000)
    began = time.process_time()
    assert not_serializable(history, final) == []
    assert time.process_time() - began < 2.0
