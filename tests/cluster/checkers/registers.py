"""A register per key is linearizable: some order of its operations respects real time.

The search of Wing and Gong with the memo of Lowe: a state is the set of operations done so far and
the value they left. A register of 0 was never written.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from tests.cluster.checkers.history import Op

_MAX_STATES = 100_000
_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Read(Op):
    """A SELECT. `locked`: FOR UPDATE, whose COMMIT had to be acknowledged: it is never stale."""

    key: int
    value: int
    locked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareAndSet(Op):
    """`ok`: the key had `expected`, and now has `new`. A mismatch is recorded as a locked Read."""

    key: int
    expected: int
    new: int


@dataclass(frozen=True, slots=True)
class _Step:
    """An operation to be placed between `start` and `end`; one that is not `due` may be left out.

    `before` and `after` are the values of the register; a read leaves it as it is.
    """

    start: float
    end: float
    due: bool
    before: int
    after: int
    op: Read | CompareAndSet


def not_linearizable(history: Iterable[Read | CompareAndSet], stale_s: float = 0.0) -> list[str]:
    """Return a text for each key without such an order; reads not `locked` may be `stale_s` old."""
    keys: dict[int, list[_Step]] = {}
    for op in history:
        if (step := _step(op, stale_s)) is not None:
            keys.setdefault(op.key, []).append(step)
    texts = ((key, _search(sorted(steps, key=lambda s: s.start))) for key, steps in keys.items())
    return [f"key {key}: {text}" for key, text in texts if text]


def _step(op: Read | CompareAndSet, stale_s: float) -> _Step | None:
    match op:
        case Read(outcome="ok", value=value):
            start = op.start if op.locked else op.start - stale_s
            return _Step(start, op.end, True, value, value, op)
        case CompareAndSet(outcome="ok", expected=expected, new=new):
            return _Step(op.start, op.end, True, expected, new, op)
        case CompareAndSet(outcome="unknown", expected=expected, new=new):
            return _Step(op.start, inf, False, expected, new, op)
        case _:
            return None


def _search(steps: Sequence[_Step]) -> str:
    due = sum(1 << number for number, step in enumerate(steps) if step.due)
    todo = [(0, 0)]
    known = set(todo)
    best, at_best = 0, (0, 0)
    while todo:
        done, value = state = todo.pop()
        if done & due == due:
            return ""
        if (count := (done & due).bit_count()) >= best:
            best, at_best = count, state
        for number in _next(steps, done, value):
            reached = (done | 1 << number, steps[number].after)
            if reached not in known:
                known.add(reached)
                todo.append(reached)
        if len(known) > _MAX_STATES:
            return f"undecided after {_MAX_STATES} states ({len(steps)} operations)"
    return _stuck(steps, *at_best)


def _next(steps: Sequence[_Step], done: int, value: int) -> list[int]:
    """Return what can come next: it has begun before anything else that is due had ended."""
    horizon = min(s.end for n, s in enumerate(steps) if s.due and not done >> n & 1)
    found: list[int] = []
    for number, step in enumerate(steps):
        if step.start > horizon:
            break
        if done >> number & 1 or step.before != value:
            continue
        if step.after == value:
            return [number]  # A read changes nothing: placed at once, it only frees the others.
        found.append(number)
    return found


def _stuck(steps: Sequence[_Step], done: int, value: int) -> str:
    left = [str(s.op) for n, s in enumerate(steps) if s.due and not done >> n & 1]
    more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
    return f"not linearizable: none fits after the value {value}: {'; '.join(left[:_SHOWN])}{more}"
