"""Lists that transactions append to and read: serializable, or the anomaly has a name.

The order of the versions of a key is the longest list that anybody read. The names are Adya's:
G0 (writes in a cycle), G1a (an aborted append was read), G1b (an intermediate one was), G1c (a
cycle of information), G-single and G2 (cycles with one read that was overwritten, or more).
Real time is not looked at here: the registers do.
"""

from collections.abc import Iterable, Mapping, Sequence

from tests.cluster.checkers.dependencies import cycles
from tests.cluster.checkers.lists import Append, ReadList, Transaction
from tests.cluster.checkers.writes import LOST

Final = Mapping[int, Sequence[int]]


def not_serializable(history: Iterable[Transaction], final: Final) -> list[str]:
    """Return the anomalies. `final`: the lists of all keys, read on the primary at the end."""
    history = list(history)
    writers = {append.value: txn for txn in history for append in txn.appends()}
    committed = [txn for txn in history if txn.outcome == "ok"]
    strict = [txn for txn in committed if not txn.standby]
    orders, found = _orders(strict, final)
    for txn in committed:
        found += _inside(txn)
        for read in txn.reads():
            found += _foreign(txn, read, writers)
    for txn in strict:
        found += [text for read in txn.others() if (text := _intermediate(txn, read, writers))]
    for txn in committed:
        if txn.standby:
            found += [text for read in txn.reads() if (text := _gone(txn, read, writers, orders))]
    found += _at_the_end(committed, writers, final)
    return found or cycles(strict, history, orders)


def _orders(
    strict: Sequence[Transaction], final: Final
) -> tuple[dict[int, tuple[int, ...]], list[str]]:
    """Return the longest list of each key, and the reads and final lists that do not fit it."""
    orders = {key: tuple(values) for key, values in final.items()}
    read = [(txn, read) for txn in strict for read in txn.others()]
    for _, seen in read:
        orders[seen.key] = max(seen.values, orders.get(seen.key, ()), key=len)
    found = [
        f"incompatible orders of key {seen.key}: {seen.values} and {orders[seen.key]}: {txn}"
        for txn, seen in read
        if orders[seen.key][: len(seen.values)] != seen.values
    ]
    found += [
        f"duplicates in key {key}: {order}"
        for key, order in orders.items()
        if len(set(order)) < len(order)
    ]
    for key, order in orders.items():
        end = tuple(final.get(key, ()))
        if end != order:
            found.append(f"read at the entry point and lost: key {key} was {order}, is now {end}")
    return orders, found


def _inside(txn: Transaction) -> list[str]:
    """A transaction sees its own appends, after what it had read of the list before."""
    expected: dict[int, tuple[int, ...]] = {}
    pending: dict[int, tuple[int, ...]] = {}
    found: list[str] = []
    for step in txn.steps:
        if isinstance(step, Append):
            pending[step.key] = (*pending.get(step.key, ()), step.value)
            continue
        own = pending.get(step.key, ())
        base = expected.setdefault(step.key, step.values[: len(step.values) - len(own)])
        if step.values != base + own:
            found.append(f"inconsistent within itself: key {step.key} is {base + own}: {txn}")
    return found


def _foreign(txn: Transaction, read: ReadList, writers: Mapping[int, Transaction]) -> list[str]:
    found: list[str] = []
    for value in read.values:
        writer = writers.get(value)
        if writer is None:
            found.append(f"nobody's append: {value} in {txn}")
        elif writer.outcome == "fail":
            found.append(f"G1a, an aborted append was read: {value} in {txn}")
    return found


def _intermediate(txn: Transaction, read: ReadList, writers: Mapping[int, Transaction]) -> str:
    writer = writers.get(read.values[-1]) if read.values else None
    if writer is None:
        return ""
    last = [append.value for append in writer.appends() if append.key == read.key][-1:]
    if last == [read.values[-1]]:
        return ""
    return f"G1b, an intermediate append was read: {read.values[-1]} in {txn}"


def _gone(
    txn: Transaction,
    read: ReadList,
    writers: Mapping[int, Transaction],
    orders: Mapping[int, tuple[int, ...]],
) -> str:
    """What a standby showed is there at the end, in that order, but for what is in doubt."""
    order = orders.get(read.key, ())
    common = next(
        (n for n, pair in enumerate(zip(read.values, order, strict=False)) if pair[0] != pair[1]),
        min(len(read.values), len(order)),
    )
    gone = [v for v in read.values[common:] if v in writers and writers[v].outcome == "ok"]
    return f"seen on a standby, but not so at the end: {gone} in {txn}" if gone else ""


def _at_the_end(
    committed: Sequence[Transaction], writers: Mapping[int, Transaction], final: Final
) -> list[str]:
    there = {key: set(values) for key, values in final.items()}
    found = [
        f"{LOST}: {append} of {txn}"
        for txn in committed
        for append in txn.appends()
        if append.value not in there.get(append.key, ())
    ]
    for key, values in final.items():
        for value in values:
            writer = writers.get(value)
            if writer is None:
                found.append(f"nobody's append at the end: {value} in key {key}")
            elif writer.outcome == "fail":
                found.append(f"reported as failed, but there: {value} of {writer}")
    return found
