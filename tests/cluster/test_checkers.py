"""Every checker sees the anomaly that it is for, and accepts what is lawful."""

import pytest

from tests.cluster.checkers import (
    Attempt,
    Outcome,
    late_acknowledgements,
    lost_or_repeated,
    outage,
    percentile,
    progress,
    seen_and_gone,
    shared_terms,
    stale_reads,
    terms,
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


def by(node: str, key: int, start: float, term: int) -> Attempt:
    return Attempt(key, "entry", start, start + 0.01, "ok", term, node=node)


def test_terms_that_follow_each_other() -> None:
    late = Attempt(3, "n1", start=1.0, end=9.0, outcome="ok", timeline=1, node="n1")
    assert terms([by("n1", 1, 0.0, 1), late, by("n2", 2, 2.0, 2), by("n1", 4, 10.0, 5)]) == []


@pytest.mark.parametrize(
    ("planted", "anomaly"),
    [
        (by("n1", 9, 2.5, 1), "acknowledged after term 2 had begun"),
        (by("n3", 9, 2.5, 2), "term 2 had 2 writers: n2, n3"),
    ],
)
def test_two_nodes_that_acknowledge(planted: Attempt, anomaly: str) -> None:
    (found,) = terms([by("n1", 1, 0.0, 1), by("n2", 2, 2.0, 2), planted])
    assert anomaly in found


def test_stale_reads_are_lawful_for_the_lease() -> None:
    writes = [by("n1", 1, 0.0, 1), by("n2", 2, 2.0, 2)]
    fresh, young, old = by("n1", 0, 1.0, 1), by("n1", 0, 6.0, 1), by("n1", 0, 9.0, 1)
    lawful, found = stale_reads([fresh, young, old], writes, lease_s=5.0)
    assert ["3.990 s" in text for text in lawful] == [True]
    assert ["6.990 s" in text for text in found] == [True]


def test_what_a_standby_showed_stays_or_was_in_doubt() -> None:
    assert seen_and_gone(HISTORY, seen=[1, 2], keys=[1, 4]) == []
    assert len(seen_and_gone(HISTORY, seen=[1], keys=[4])) == 1
    assert len(seen_and_gone(HISTORY, seen=[3], keys=[1, 3, 4])) == 1
    assert len(seen_and_gone(HISTORY, seen=[99], keys=[1, 4])) == 1


@pytest.mark.parametrize(
    ("acked", "said"),
    [
        ([1.0, 10.5], ""),
        ([1.0, 9.9, 12.5], "the first came after 2.500 s"),
        ([1.0, 9.9], "nor ever after"),
        ([], "nor ever after"),
    ],
)
def test_progress_after_the_heal(acked: list[float], said: str) -> None:
    found = progress(acked, healed_at=10.0)
    assert bool(found) == bool(said)
    assert all(said in text for text in found)


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
