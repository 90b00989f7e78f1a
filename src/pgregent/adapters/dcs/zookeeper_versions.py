"""Versions of ZooKeeper's keys that are comparable over all its lives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgregent.adapters.dcs.zookeeper_link import Link


@dataclass(frozen=True, slots=True)
class Known:
    """A key as the server last showed it."""

    link: Link
    written: tuple[int, int, int]
    data_version: int
    mark: str | None


class Versions:
    """Numbers the versions of keys, and knows which of them a CAS may build on.

    A version is the id of the transaction that wrote it. Ids start again in a store that came back
    empty or older; when a key shows that, a number above all ids is added to every later version.
    Data versions, which ZooKeeper compares, are only used on the connection that they came from: no
    connection outlives a server's restart, nor a change of leader.
    """

    def __init__(self) -> None:
        self._lives = 0
        self._known: dict[str, Known] = {}

    def number(self, mzxid: int) -> int:
        return self.numbering()(mzxid)

    def numbering(self) -> Callable[[int], int]:
        """Return how to number what is written in the life that is known now."""
        lives = self._lives
        return lambda mzxid: (lives << 64) + mzxid

    def of(self, key: str) -> int:
        return self.number(self._known[key].written[0])

    def known(self, link: Link, key: str, version: int) -> Known | None:
        known = self._known.get(key)
        if known is None or known.link is not link or self.of(key) != version:
            return None
        return known

    def note(self, link: Link, key: str, stat: Any, mark: str | None) -> None:
        written = (stat.mzxid, stat.czxid, stat.mtime)
        new, old = Known(link, written, stat.version, mark), self._known.get(key)
        if old is not None and old.link is link and written[0] < old.written[0]:
            # The reply of a read that was overtaken.
            return
        if old is not None and old.link is not link and _is_another_life(old, new):
            self._lives += 1
            self._known.clear()
        self._known[key] = new


def _is_another_life(old: Known, new: Known) -> bool:
    if new.written[0] > old.written[0]:
        return False
    marks = {old.mark, new.mark} - {None}
    return new.written != old.written or len(marks) > 1
