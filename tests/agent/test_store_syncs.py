"""A promise that was saved is on disk: nothing is written after the sync."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pgregent.agent.store import SLOTS, Store
from pgregent.core.types import Durable, Incarnation

MEMBER = Durable(Incarnation("n1", "abcd"))


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """By name, what was in each file when it was synced last; of a directory, its files' names."""
    found: dict[str, bytes] = {}

    def noting(name: str) -> None:
        sync = getattr(os, name)

        def noted(fd: int) -> None:
            sync(fd)
            path = Path(os.readlink(f"/proc/self/fd/{fd}"))
            is_dir = path.is_dir()
            found[path.name] = (
                b" ".join(sorted(map(os.fsencode, os.listdir(path))))
                if (is_dir)
                else path.read_bytes()
            )

        monkeypatch.setattr(os, name, noted)

    noting("fsync")
    noting("fdatasync")
    return found


def test_a_save_is_on_disk_when_it_returns(tmp_path: Path, synced: dict[str, bytes]) -> None:
    store = Store(tmp_path)
    for term in range(1, 5):
        store.save(replace(MEMBER, promoted=term))
        written = {slot: (tmp_path / slot) for slot in SLOTS if (tmp_path / slot).exists()}
        for slot, path in written.items():
            assert synced.get(slot) == path.read_bytes(), f"{slot} was not synced after its write"
        names = synced.get(tmp_path.name, b"").decode().split()
        assert names == sorted(written), "the directory was not synced after a file was made in it"
