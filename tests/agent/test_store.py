"""What a member promised survives a crash in the middle of writing it."""

from dataclasses import replace
from pathlib import Path

import pytest

from pgregent.agent.store import SLOTS, Store
from pgregent.core.errors import Refused
from pgregent.core.types import Durable, Incarnation

MEMBER = Durable(Incarnation("n1", "abcd"))


def test_a_member_without_a_file_is_a_stranger(tmp_path: Path) -> None:
    first, second = Store(tmp_path).load("n1"), Store(tmp_path).load("n1")
    assert first.incarnation.name == "n1"
    assert first.incarnation != second.incarnation


def test_the_newest_save_is_loaded(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for term in range(1, 6):
        store.save(replace(MEMBER, promoted=term))
        assert Store(tmp_path).load("n1").promoted == term
    again = Store(tmp_path)
    again.load("n1")
    again.save(replace(MEMBER, promoted=7))
    assert Store(tmp_path).load("n1").promoted == 7


@pytest.mark.parametrize("cut", [0, 1, 10, 60, 120])
def test_a_torn_write_leaves_the_state_before(tmp_path: Path, cut: int) -> None:
    store = Store(tmp_path)
    store.save(replace(MEMBER, promoted=1))
    store.save(replace(MEMBER, promoted=2))
    torn = tmp_path / SLOTS[0]
    torn.write_bytes(torn.read_bytes()[:cut] + b"x" * 200)
    assert Store(tmp_path).load("n1").promoted == 1


def test_two_corrupt_slots_are_refused(tmp_path: Path) -> None:
    for slot in SLOTS:
        (tmp_path / slot).write_bytes(b"nonsense")
    with pytest.raises(Refused, match="corrupt"):
        Store(tmp_path).load("n1")


def test_another_members_file_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).save(MEMBER)
    with pytest.raises(Refused, match="n1"):
        Store(tmp_path).load("n2")


def test_files_are_private(tmp_path: Path) -> None:
    Store(tmp_path).save(MEMBER)
    assert (tmp_path / SLOTS[1]).stat().st_mode & 0o777 == 0o600
