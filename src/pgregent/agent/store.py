"""A member's durable state: one file beside the data directory, replaced atomically."""

import os
import secrets
from pathlib import Path

from pgregent.agent.codec import decode, encode
from pgregent.core.errors import Refused
from pgregent.core.types import Durable, Incarnation

STATE_FILE = "state.json"


class Store:
    """Where promises live. A save is on disk when it returns; blocking, a few milliseconds."""

    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir
        self._path = state_dir / STATE_FILE

    def load(self, name: str) -> Durable:
        """What this member promised; without a file a stranger, that counts for nothing yet."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Durable(Incarnation(name, secrets.token_hex(4)))
        except OSError as error:
            raise Refused(f"cannot read {self._path}: {error.strerror}") from error
        durable = decode(Durable, data, str(self._path))
        if durable.incarnation.name != name:
            raise Refused(
                f"{self._path} belongs to member {durable.incarnation.name!r}, the configuration "
                f"says {name!r}: use that member's data_dir, or correct the name"
            )
        return durable

    def save(self, durable: Durable) -> None:
        """Replace the file durably. Raises OSError; the old one stays then."""
        temporary = self._dir / f".{STATE_FILE}.new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(encode(durable))
            file.flush()
            os.fsync(fd)
        os.replace(temporary, self._path)
        directory = os.open(self._dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
