"""What the files of a data directory say about its WAL; no server is asked."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pgregent.adapters.postgres.render import Owner, fsync_dir, refusal, write_file
from pgregent.core.errors import Bug, Refused, Unavailable

SEGMENT_SIZE = 16 * 1024 * 1024
# The same bytes on every member: archives compare files, and members copy them from each other.
STUB = b"# pgregent: nobody was promoted to this timeline\n"

_SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history")
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_ENTRY = re.compile(r"\s*(\d+)\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:\s+(.*))?")


def parse_lsn(text: str) -> int:
    """The byte position of "X/Y". Raises Refused."""
    found = _LSN.fullmatch(text)
    if found is None:
        raise Refused(f"{text!r} is not an LSN; expected two hexadecimal numbers like 0/3000148")
    return (int(found[1], 16) << 32) | int(found[2], 16)


def format_lsn(lsn: int) -> str:
    """PostgreSQL's text of the byte position `lsn` (0..2**64-1)."""
    if not 0 <= lsn < 1 << 64:
        raise Bug(f"LSN {lsn}")
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def wal_timeline_at(data_dir: Path, lsn: int, segment_size: int = SEGMENT_SIZE) -> int | None:
    """The timeline of the WAL that ends at `lsn`; None: no segment file covers it.

    It is the highest among the segment files that hold the byte before `lsn` (> 0), so files
    allocated in advance do not count: they have later numbers. Raises Refused.
    """
    if lsn <= 0:
        raise Bug(f"no WAL ends at {lsn}")
    wanted = (lsn - 1) // segment_size
    per_file = (1 << 32) // segment_size
    timelines = [
        int(found[1], 16)
        for name in _names(data_dir / "pg_wal")
        if (found := _SEGMENT.fullmatch(name))
        and int(found[2], 16) * per_file + int(found[3], 16) == wanted
    ]
    return max(timelines, default=None)


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError as error:
        raise refusal(error, f"cannot list {directory}") from error


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """The lineage left `timeline` at `switch_lsn`."""

    timeline: int
    switch_lsn: int


def parse_history(content: bytes) -> tuple[HistoryEntry, ...]:
    """The ancestors in a history file, oldest first; none in a stub. Raises Refused."""
    entries: list[HistoryEntry] = []
    for line in content.decode("utf-8", "replace").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _ENTRY.fullmatch(line)
        if found is None or (entries and int(found[1]) <= entries[-1].timeline):
            raise Refused(f"corrupt timeline history: {line!r}; restore the file from a member")
        entries.append(HistoryEntry(int(found[1]), parse_lsn(found[2])))
    return tuple(entries)


def is_stub(content: bytes) -> bool:
    """Whether a history file names no ancestor: nobody was promoted to that timeline."""
    return not parse_history(content)


def fork_point(history: bytes, timeline: int) -> int | None:
    """The LSN where the lineage of `history` left `timeline`; None: that is not an ancestor."""
    return next((e.switch_lsn for e in parse_history(history) if e.timeline == timeline), None)


def history_name(timeline: int) -> str:
    """The file name of the history of `timeline` (>= 2)."""
    return f"{timeline:08X}.history"


def history_files(data_dir: Path) -> dict[int, bytes]:
    """All history files in pg_wal by timeline, stubs included. Raises Refused."""
    directory = data_dir / "pg_wal"
    found = [match for name in _names(directory) if (match := _HISTORY.fullmatch(name))]
    try:
        return {int(match[1], 16): (directory / match[0]).read_bytes() for match in found}
    except OSError as error:
        raise refusal(error, f"cannot read the timeline history in {directory}") from error


def newest_history(data_dir: Path) -> int:
    """The highest timeline with a history file in pg_wal, stubs included; 1 if there is none."""
    names = (_HISTORY.fullmatch(name) for name in _names(data_dir / "pg_wal"))
    return max((int(match[1], 16) for match in names if match), default=1)


def ensure_history(
    data_dir: Path,
    complete: Mapping[int, bytes | None],
    *,
    below: int,
    owner: Owner | None = None,
) -> tuple[int, ...]:
    """Give pg_wal a history file for every timeline from 2 to `below` - 1; returns those written.

    Real ones from `complete` (also above), stubs elsewhere; a real one replaces a stub, nothing
    replaces a real one. Raises Refused when two real ones differ: that number had two writers.
    """
    have = history_files(data_dir)
    written: list[int] = []
    for timeline in sorted({*range(2, below), *(n for n in complete if n >= 2)}):
        local, given = have.get(timeline), complete.get(timeline)
        if given is None or is_stub(given):
            if local is not None or timeline >= below:
                continue
            given = STUB
        elif local is not None and not is_stub(local):
            _same_history(data_dir, timeline, local, given)
            continue
        write_file(data_dir / "pg_wal" / history_name(timeline), given, owner)
        written.append(timeline)
    return tuple(written)


def _same_history(data_dir: Path, timeline: int, local: bytes, given: bytes) -> None:
    if parse_history(local) != parse_history(given):
        raise Refused(
            f"timeline {timeline} has two histories: {parse_history(local)} in {data_dir} and "
            f"{parse_history(given)} in the cluster; this server was promoted by somebody else: "
            "clone it anew"
        )


def remove_late_stubs(data_dir: Path) -> tuple[int, ...]:
    """Remove the stubs above the newest real timeline; returns them. Call before every start.

    With one of them a standby does not start ("unexpected timeline ID"). Raises Refused.
    """
    files = history_files(data_dir)
    newest = max((n for n, content in files.items() if not is_stub(content)), default=1)
    late = tuple(sorted(n for n in files if n > newest))
    directory = data_dir / "pg_wal"
    try:
        for timeline in late:
            (directory / history_name(timeline)).unlink()
        if late:
            fsync_dir(directory)
    except OSError as error:
        raise refusal(error, f"cannot remove a stub from {directory}") from error
    return late


def set_aside_above(data_dir: Path, timeline: int) -> tuple[str, ...]:
    """Rename the segments of timelines above `timeline` to *.partial; returns their old names.

    Recovery does not read those, and PostgreSQL removes them when it removes old WAL. Only before
    a start as a new incarnation: acknowledged WAL may be among it. Raises Refused.
    """
    directory = data_dir / "pg_wal"
    found = (match for name in _names(directory) if (match := _SEGMENT.fullmatch(name)))
    above = tuple(sorted(match[0] for match in found if int(match[1], 16) > timeline))
    try:
        for name in above:
            (directory / name).replace(directory / f"{name}.partial")
        if above:
            fsync_dir(directory)
    except OSError as error:
        raise refusal(error, f"cannot set segments aside in {directory}") from error
    return above


@dataclass(frozen=True, slots=True)
class ControlData:
    """What pg_controldata says. LSNs and sizes in bytes; 0 where PostgreSQL has none."""

    system_identifier: int
    state: str  # PostgreSQL's words: "in production", "shut down", "shut down in recovery", …
    timeline: int
    checkpoint_lsn: int
    redo_lsn: int
    min_recovery_end_lsn: int
    min_recovery_end_timeline: int
    wal_segment_size: int
    checksum_version: int
    wal_log_hints: bool
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_xacts: int
    max_locks_per_xact: int

    @property
    def shut_down(self) -> bool:
        """Stopped cleanly, as a primary or as a standby."""
        return self.state in ("shut down", "shut down in recovery")


def tool_environment() -> dict[str, str]:
    """The environment of PostgreSQL's tools: plain English, none of our variables or secrets."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"LC_ALL": "C"}


def controldata(bin_dir: Path, data_dir: Path, timeout: float = 10.0) -> ControlData:
    """Run pg_controldata; blocks for some milliseconds, `timeout` seconds at most.

    Raises Refused (no data directory, corrupt control file), Unavailable("postgres").
    """
    argv = [str(bin_dir / "pg_controldata"), "-D", str(data_dir)]
    env = tool_environment()
    try:
        done = subprocess.run(argv, check=False, capture_output=True, timeout=timeout, env=env)
    except OSError as error:
        raise refusal(error, f"cannot run {argv[0]}") from error
    except subprocess.TimeoutExpired as error:
        reason = f"pg_controldata did not end within {timeout:g} s"
        raise Unavailable("postgres", reason) from error
    text, complaint = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    # It warns about a wrong checksum (on 15 in its output) and then ends with success and garbage.
    if done.returncode != 0 or "CRC" in text + complaint:
        raise Refused(
            f"pg_controldata cannot read {data_dir}: {complaint.strip() or 'wrong CRC checksum'}; "
            "is it a data directory, and of this PostgreSQL version?"
        )
    return parse_controldata(text)


def parse_controldata(text: str) -> ControlData:
    """Parse pg_controldata's output in the C locale (PostgreSQL 14 to 18). Raises Refused."""
    lines = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {label.strip(): value.strip() for label, value in lines}
    try:
        return ControlData(
            system_identifier=int(fields["Database system identifier"]),
            state=fields["Database cluster state"],
            timeline=int(fields["Latest checkpoint's TimeLineID"]),
            checkpoint_lsn=parse_lsn(fields["Latest checkpoint location"]),
            redo_lsn=parse_lsn(fields["Latest checkpoint's REDO location"]),
            min_recovery_end_lsn=parse_lsn(fields["Minimum recovery ending location"]),
            min_recovery_end_timeline=int(fields["Min recovery ending loc's timeline"]),
            wal_segment_size=int(fields["Bytes per WAL segment"]),
            checksum_version=int(fields["Data page checksum version"]),
            wal_log_hints=fields["wal_log_hints setting"] == "on",
            max_connections=int(fields["max_connections setting"]),
            max_worker_processes=int(fields["max_worker_processes setting"]),
            max_wal_senders=int(fields["max_wal_senders setting"]),
            max_prepared_xacts=int(fields["max_prepared_xacts setting"]),
            max_locks_per_xact=int(fields["max_locks_per_xact setting"]),
        )
    except (KeyError, ValueError) as error:
        reason = f"pg_controldata's output lacks or garbles {error}; expected PostgreSQL 14 to 18"
        raise Refused(reason) from error
