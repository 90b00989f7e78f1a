"""Every checker sees the anomaly that it is for, and accepts what is lawful."""

import pytest

from tests.cluster.checkers import (
    Attempt,
    Outcome,
    late_acknowledgements,
    lost_or_repeated,
    outage,
    percentile,
    shared_terms,
)


def attempt(
    key: int, outcome: Outcome = "ok", start: float = 0.0, term: int = 1, path: str = "entry"
) -> Attempt:
    timeline = term if outcome == "ok" else None
    return Attempt(key, path, start, start + 0.01, outcome, timeline)


HISTORY = [attempt(1), attempt(2, "unknown"), attempt(3, "fail"), attempt(4)]


@pytest.mark.parametrize("keys", [[1, 4], [4, 2, 1]])
def test_rows_in_order(keys: list[int]) -> None:
    assert lost_or_repeated(HISTORY, keys) == []


@pytest.mark.parametrize(
    ("keys", "anomaly"),
    [
        ([1], "acknowledged and lost"),
        ([1, 4, 4], "2 times there"),
        ([1, 4, 2, 2], "2 times there"),
        ([1, 4, 3], "reported as failed"),
        ([1, 4, 99], "never written: 99"),
    ],
)
def test_rows_with_a_planted_anomaly(keys: list[int], anomaly: str) -> None:
    (found,) = lost_or_repeated(HISTORY, keys)
    assert anomaly in found


def test_an_old_term_acknowledges_after_the_new_one_began() -> None:
    history = [attempt(1, start=1.0), attempt(2, start=2.0, term=2), attempt(3, start=2.5, term=1)]
    (found,) = late_acknowledgements(history)
    assert "after term 2 had begun" in found
    assert "key=3" in found


def test_a_reply_under_way_when_the_new_term_began_is_lawful() -> None:
    frozen = Attempt(1, "n1", start=1.0, end=9.0, outcome="ok", timeline=1)
    assert late_acknowledgements([frozen, attempt(2, start=2.0, term=2)]) == []


def test_a_failed_attempt_in_an_old_term_is_lawful() -> None:
    history = [attempt(1, start=1.0, term=2), attempt(2, "fail", start=2.0)]
    assert late_acknowledgements(history) == []


def test_two_writers_in_one_term() -> None:
    history = [attempt(1, path="n1"), attempt(2, path="n2"), attempt(3, path="entry")]
    assert shared_terms(history, "entry") == ["term 1 had 2 writers: n1, n2"]


def test_one_writer_in_each_term() -> None:
    history = [attempt(1, path="n1"), attempt(2, path="n2", term=2), attempt(3, path="entry")]
    assert shared_terms(history, "entry") == []


def test_the_outage_is_the_longest_gap_around_the_fault() -> None:
    times = [0.0, 3.0, 4.0, 4.1, 5.5, 5.6, 9.0]
    history = [attempt(number, start=start) for number, start in enumerate(times)]
    measured = outage(history, "entry", fault=4.2, until=5.6)
    assert measured.gap == pytest.approx(1.4)
    assert measured.resumed_after == pytest.approx(1.31)


def test_an_outage_that_did_not_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="both sides"):
        outage([attempt(1), attempt(2, "unknown", start=1.0)], "entry", fault=0.5, until=9.0)


def test_percentile_is_a_measured_value() -> None:
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], 95) == 5.0
    assert percentile([float(n) for n in range(1, 101)], 95) == 95.0
    assert percentile([7.0], 50) == 7.0
