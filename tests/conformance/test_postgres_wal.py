"""Reading and writing pg_wal without a server. Real promotions are in test_postgres_sql.py."""

from pathlib import Path

import pytest

from pgregent.adapters.postgres import wal
from pgregent.core.errors import Bug, Refused

MB16 = wal.SEGMENT_SIZE
REAL_4 = b"1\t0/3000148\tno recovery target specified\n"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "pg_wal").mkdir()
    return tmp_path


def segments(data_dir: Path, *names: str) -> None:
    for name in names:
        (data_dir / "pg_wal" / name).touch()


def test_lsn_text() -> None:
    assert wal.parse_lsn("16/B374D848") == 0x16B374D848
    assert wal.format_lsn(0x16B374D848) == "16/B374D848"
    assert wal.format_lsn(wal.parse_lsn("0/0")) == "0/0"
    for bad in ("", "0", "0/G", "0/1 ", "123456789/0"):
        with pytest.raises(Refused, match="not an LSN"):
            wal.parse_lsn(bad)


def test_timeline_is_the_highest_whose_segment_covers_the_lsn(data_dir: Path) -> None:
    segments(
        data_dir,
        "000000010000000000000003",
        "000000020000000000000003",
        "000000020000000000000003.partial",
        "000000090000000000000004",  # allocated in advance
        "00000009.history",
        "archive_status",
    )
    assert wal.wal_timeline_at(data_dir, 3 * MB16 + 1) == 2
    assert wal.wal_timeline_at(data_dir, 4 * MB16) == 2  # the last byte is in segment 3
    assert wal.wal_timeline_at(data_dir, 4 * MB16 + 1) == 9
    assert wal.wal_timeline_at(data_dir, 3 * MB16) is None


def test_timeline_with_other_segment_sizes_and_high_lsns(data_dir: Path) -> None:
    segments(data_dir, "000000030000000200000001", "0000000500000002000000FF")
    assert wal.wal_timeline_at(data_dir, (2 << 32) + (1 << 30) + 5, 1 << 30) == 3
    assert wal.wal_timeline_at(data_dir, 3 << 32) == 5
    with pytest.raises(Bug):
        wal.wal_timeline_at(data_dir, 0)


def test_history_lineage_and_fork_point() -> None:
    content = b"# c\n1\t0/3000148\tx\n\n4\t1/5000000\tafter 2\n"
    assert wal.parse_history(content) == (
        wal.HistoryEntry(1, 0x3000148),
        wal.HistoryEntry(4, 0x105000000),
    )
    assert wal.fork_point(content, 4) == 0x105000000
    assert wal.fork_point(content, 2) is None
    assert wal.is_stub(wal.STUB) and not wal.is_stub(content)
    for bad in (b"nonsense\n", b"4\t0/1\tx\n1\t0/2\ty\n"):
        with pytest.raises(Refused, match="corrupt"):
            wal.parse_history(bad)


def test_ensure_history_fills_gaps_and_real_replaces_stub(data_dir: Path) -> None:
    assert wal.ensure_history(data_dir, {}, below=4) == (2, 3)
    assert wal.ensure_history(data_dir, {3: None}, below=4) == ()
    assert wal.ensure_history(data_dir, {3: REAL_4, 6: REAL_4, 7: None}, below=5) == (3, 4, 6)
    assert wal.ensure_history(data_dir, {3: wal.STUB}, below=5) == ()
    files = wal.history_files(data_dir)
    assert files == {2: wal.STUB, 3: REAL_4, 4: wal.STUB, 6: REAL_4}
    mode = (data_dir / "pg_wal" / "00000002.history").stat().st_mode & 0o777
    assert mode == 0o600


def test_two_histories_of_one_timeline_are_refused(data_dir: Path) -> None:
    wal.ensure_history(data_dir, {2: REAL_4}, below=3)
    wal.ensure_history(data_dir, {2: REAL_4.replace(b"specified", b"")}, below=3)
    with pytest.raises(Refused, match="timeline 2 has two histories"):
        wal.ensure_history(data_dir, {2: b"1\t0/4000000\tx\n"}, below=3)


def test_late_stubs_are_those_above_the_newest_real_timeline(data_dir: Path) -> None:
    wal.ensure_history(data_dir, {4: REAL_4}, below=7)
    assert wal.remove_late_stubs(data_dir) == (5, 6)
    assert sorted(wal.history_files(data_dir)) == [2, 3, 4]
    (data_dir / "pg_wal" / "00000004.history").unlink()
    assert wal.remove_late_stubs(data_dir) == (2, 3)


def test_controldata_that_is_none() -> None:
    with pytest.raises(Refused, match="lacks"):
        wal.parse_controldata("pg_control version number: 1300\n")
