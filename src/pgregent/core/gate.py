"""Where the entry point may route: only by the newest register, and only on the primary's word."""

from collections.abc import Iterable
from dataclasses import dataclass

from pgregent.core.types import PgState, Record, Register


@dataclass(frozen=True, slots=True)
class Heard:
    """A member's latest record and when it came."""

    record: Record
    at: float


@dataclass(frozen=True, slots=True)
class Route:
    """Where new connections go (None: hold them). Sessions of an earlier term end."""

    primary: tuple[str, int] | None
    term: int
    standbys: tuple[tuple[str, int], ...]
    reason: str


def route(
    heard: Iterable[Heard], now: float, stale_after: float, newest_seen: Register | None = None
) -> Route:
    """The route that these records allow. A record older than `stale_after` seconds is no word;
    `newest_seen` is the newest register that any record ever showed."""
    known = [h for h in heard if h.record.register is not None]
    registers = [h.record.register for h in known if h.record.register is not None]
    if newest_seen is not None:
        registers.append(newest_seen)
    if not registers:
        return Route(None, 0, (), "no member has been heard yet")
    newest = max(registers, key=lambda r: r.seq)
    fresh = [h.record for h in known if now - h.at <= stale_after]
    standbys = tuple(
        (r.host, r.port)
        for r in fresh
        if r.state is PgState.STANDBY and r.streaming and r.balanced and _current(r, newest)
    )
    primary = next((r for r in fresh if r.incarnation == newest.primary), None)
    if newest.electing:
        return Route(None, newest.term, standbys, f"an election is under way: {newest.why}")
    if primary is None:
        name = newest.primary.name
        return Route(None, newest.term, standbys, f"nothing was heard of {name} lately")
    if not primary.serving or not _current(primary, newest):
        return Route(None, newest.term, standbys, f"{newest.primary.name}: {primary.why}")
    return Route((primary.host, primary.port), newest.term, standbys, "")


def _current(record: Record, newest: Register) -> bool:
    return record.register is not None and record.register.term == newest.term
