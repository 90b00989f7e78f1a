"""A member's durable state: two slots beside the data directory, written in turn.

A save overwrites the older slot in place, so it costs one sync of a file that does not grow.
Whatever happens in the middle of it, the other slot still holds the state before, from which
nothing more than was allowed has followed.
"""

import hashlib
import os
import secrets
from pathlib import Path

from pgregent.agent.codec import decode, encode
from pgregent.core.errors import Refused
from pgregent.core.types import Durable, Incarnation

SLOTS = ("state.0.json", "state.1.json")
BLOCK_BYTES = 16384


class Store:
    """Where promises live. A save is on disk when it returns; blocking, a few milliseconds."""

    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir
        self._number = 0

    def load(self, name: str) -> Durable:
        """What this member promised; without a file a stranger, that counts for nothing yet."""
        found = {slot: self._read(self._dir / slot) for slot in SLOTS}
        whole = {slot: f for slot, f in found.items() if f is not None}
        if not whole:
            if self.is_there():
                raise Refused(
                    f"{self._dir / SLOTS[0]} and {SLOTS[1]} are corrupt: they hold what this "
                    "member promised; restore one of them, or move the data directory and "
                    f"{self._dir.name} away to have it cloned anew"
                )
            return Durable(Incarnation(name, secrets.token_hex(4)))
        slot, (self._number, data) = max(whole.items(), key=lambda item: item[1][0])
        durable = decode(Durable, data, str(self._dir / slot))
        if durable.incarnation.name != name:
            raise Refused(
                f"{self._dir / slot} belongs to member {durable.incarnation.name!r}, the "
                f"configuration says {name!r}: use that member's data_dir, or correct the name"
            )
        return durable

    def is_there(self) -> bool:
        """Whether anything was ever saved."""
        return any((self._dir / slot).exists() for slot in SLOTS)

    @staticmethod
    def _read(path: Path) -> tuple[int, bytes] | None:
        """A slot's number and content; None if it is absent or was not written to its end."""
        try:
            header, _, rest = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Refused(f"cannot read {path}: {error.strerror}") from error
        words = header.split()
        if len(words) != 3 or not (words[0].isdigit() and words[1].isdigit()):
            return None
        data = rest[: int(words[1])]
        whole = _digest(words[0], data) == words[2]
        return (int(words[0]), data) if whole else None

    def save(self, durable: Durable) -> None:
        """Write and sync. Raises OSError; what was saved before stays then."""
        data, number = encode(durable), b"%d" % (self._number + 1)
        content = b"%s %d %s\n%s" % (number, len(data), _digest(number, data), data)
        content += b"\n" * (-len(content) % BLOCK_BYTES)
        path = self._dir / SLOTS[int(number) % 2]
        new = not path.exists()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            written = os.pwrite(fd, content, 0)
            if written != len(content):
                raise OSError(f"only {written} of {len(content)} bytes were written to {path}")
            os.fsync(fd) if new else os.fdatasync(fd)
        finally:
            os.close(fd)
        if new:
            _sync_directory(self._dir)
        self._number += 1


def _digest(number: bytes, data: bytes) -> bytes:
    return hashlib.sha256(number + b" " + data).hexdigest().encode()


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
