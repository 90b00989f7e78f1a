"""Versions of etcd's keys that are comparable over all its lives."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Known:
    """A key as it was last shown, and which of its versions that is."""

    version: int
    revision: int
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Moment:
    """What was known of the store when a request was sent."""

    lives: int
    revision: int


class Versions:
    """Numbers the versions of keys, and knows which of them a CAS may build on.

    A version is the revision that wrote it (mod_revision). Revisions start again in a store that
    came back empty, and are used twice by one that came back older. An answer shows that when its
    revision is below one that was seen before it was asked for; a number above all revisions is
    then added to every later version. Until an answer does, only the value tells the two lives'
    keys apart, so a CAS names it, too.
    """

    def __init__(self) -> None:
        self._lives = 0
        self._revision = 0
        self._known: dict[str, Known] = {}

    def now(self) -> Moment:
        """To be taken before a request is sent."""
        return Moment(self._lives, self._revision)

    def answered(self, sent: Moment, revision: int) -> bool:
        """Note an answer's revision; False: it can be of an earlier life than the present one."""
        if sent.lives != self._lives:
            return False
        if revision < sent.revision:
            self._lives += 1
            self._revision = revision
            self._known.clear()
        self._revision = max(self._revision, revision)
        return True

    def number(self, revision: int) -> int:
        """Return the version of a key that the present life's `revision` wrote."""
        return (self._lives << 64) + revision

    def known(self, key: str, version: int) -> Known | None:
        """Return that version of the key, if it is the last one that was shown."""
        known = self._known.get(key)
        return known if known is not None and known.version == version else None

    def note(self, key: str, revision: int, value: bytes) -> int:
        """Keep what the present life shows of a key; returns its version."""
        version, known = self.number(revision), self._known.get(key)
        # The reply of a read can be overtaken.
        if known is None or known.revision < revision:
            self._known[key] = Known(version, revision, value)
        return version

    def forget(self, is_gone: Callable[[str], bool], revision: int) -> None:
        """Drop the keys that are not there at `revision`."""
        gone = [k for k, known in self._known.items() if known.revision <= revision and is_gone(k)]
        for key in gone:
            del self._known[key]
