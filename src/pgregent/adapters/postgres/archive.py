"""A WAL archive in a directory: what archive_command and restore_command do with one file.

`ARCHIVE/<system identifier>/<file name>`. A process runs this for every segment, and while a
standby waits for WAL many times a second, so it imports next to nothing.
"""

import errno
import os
import re
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from pgregent.core.errors import Refused

if TYPE_CHECKING:
    from io import FileIO

INCOMING = "incoming"
"""Where files are written before they get their name; a directory, so that it is soon listed."""
LEFTOVER_AGE_S = 3600.0
CHUNK = 1 << 20

_NAME = re.compile(
    r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})(?P<partial>\.partial)?(?P<backup>\.[0-9A-F]{8}\.backup)?"
    r"|(?P<history>[0-9A-F]{8})\.history"
)
_TEMPORARY = re.compile(r"[0-9A-F]{8}.*\.[0-9a-f]{16}")
# XLogLongPageHeaderData in the server's own byte order: magic, info, timeline, address, length of
# a continued record, padding, system identifier, segment size, page size.
_HEADER = struct.Struct("=HHIQIxxxxQII")
_LONG_HEADER_FLAG = 2
# The start of ControlFileData: system identifier, version of the file, version of the catalog.
_CONTROL = struct.Struct("=QII")
_LINK_TRIES = 5


class _Name(NamedTuple):  # dataclasses would cost milliseconds of each run
    text: str
    timeline: int
    segment: tuple[int, int] | None
    history: bool


class _Segment(NamedTuple):
    system_id: int
    size: int
    start_lsn: int


def push(archive: str, path: str, system_id: int | None = None) -> str:
    """Archive `path`, a file of pg_wal, durably; returns a line for the server's log, or "".

    An identical file in its place is success, also when another server or a killed run put it
    there. `system_id` is needed for a history or backup file outside a data directory. Raises
    Refused; nothing in the archive is ever changed then.
    """
    name = _parse_name(os.path.basename(path))
    try:
        return _push(archive, path, name, system_id)
    except OSError as error:
        raise _refusal(error, f"cannot archive {path} in {archive}") from error


def fetch(archive: str, name: str, path: str, system_id: int | None = None) -> bool:
    """Copy `name` from the archive to `path`, all of it or nothing. False: it is not there.

    Raises Refused: it cannot be read, is cut off, or is another cluster's. That is not the end
    of the archive.
    """
    parsed = _parse_name(name)
    try:
        return _fetch(archive, parsed, path, system_id)
    except OSError as error:
        raise _refusal(error, f"cannot fetch {name} from {archive} to {path}") from error


def is_standby(path: str) -> bool:
    """Whether the server that wants `path` is a standby, which asks again and again."""
    data_dir = _data_dir(path)
    return data_dir is not None and os.path.exists(os.path.join(data_dir, "standby.signal"))


def _push(archive: str, path: str, name: _Name, system_id: int | None) -> str:
    expected = _system_id(path, system_id)
    with open(path, "rb", buffering=0) as source:
        if name.segment is not None:
            system_id = _check_segment(source, path, name, expected).system_id
        else:
            _check_text(source, path)
            system_id = _known(expected, path)
        folder = _make_folder(archive, system_id)
        if name.history:
            return _push_history(folder, path, name, source)
        return _place(folder, path, name, source)


def _push_history(folder: str, path: str, name: _Name, source: "FileIO") -> str:
    if _names_nobody(source):
        # Above the newest real history it would stop standbys from starting; the push of a later
        # real one brings it along.
        later = (n for n in _histories(folder) if n.timeline > name.timeline)
        if not any(_is_real(os.path.join(folder, n.text)) for n in later):
            return ""
        return _place(folder, path, name, source)
    notes = [_place(folder, path, name, source)]
    here = os.path.dirname(path)
    for earlier in _histories(here or "."):
        # Recovery from the archive tries every number and stops at a gap.
        target = os.path.join(folder, earlier.text)
        if earlier.timeline < name.timeline and not os.path.exists(target):
            found = os.path.join(here, earlier.text)
            with open(found, "rb", buffering=0) as file:
                _check_text(file, found)
                notes.append(_place(folder, found, earlier, file))
    return "; ".join(filter(None, notes))


def _histories(directory: str) -> list[_Name]:
    found = (_NAME.fullmatch(text) for text in os.listdir(directory))
    return [_parse_name(match[0]) for match in found if match and match["history"]]


def _is_real(path: str) -> bool:
    with open(path, "rb", buffering=0) as file:
        return not _names_nobody(file)


def _names_nobody(file: "FileIO") -> bool:
    from pgregent.adapters.postgres.wal import is_stub

    file.seek(0)
    try:
        return is_stub(file.readall())
    except Refused:
        return False  # cut off: it named somebody, or would have


def _place(folder: str, path: str, name: _Name, source: "FileIO") -> str:
    """Give `source` its name in `folder`, unless it has it."""
    target, temporary, note = os.path.join(folder, name.text), "", ""
    try:
        for _ in range(_LINK_TRIES):
            settled = _settle(target, path, name, source)
            if settled is None:
                temporary = temporary or _write_temporary(folder, name, source)
                if _link(temporary, target):
                    break
            elif settled.replace:
                temporary = temporary or _write_temporary(folder, name, source)
                os.replace(temporary, target)
                break
            elif settled.done:
                note = note or settled.note
                break
            else:
                note = settled.note
        else:
            raise Refused(f"{target} changes all the time; who else writes there? Archive once")
    finally:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)
    # Also for a file that was there: whoever put it there may have been killed before the sync.
    _sync_dir(folder)
    return note


def _link(temporary: str, target: str) -> bool:
    """Whether the file got its name; False: another has it. Raises Refused."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        raise Refused(
            f"{target} cannot be made without the risk of replacing another: its file system has "
            "no hard links; put the archive on one that has"
        ) from error
    return True


class _Settled(NamedTuple):
    """What becomes of a file that has the name already."""

    done: bool = False
    replace: bool = False
    note: str = ""


def _settle(target: str, path: str, name: _Name, source: "FileIO") -> _Settled | None:
    """Compare `source` with the file that has its name. None: there is none. Raises Refused."""
    existing = _open_if_there(target)
    if existing is None:
        return None
    with existing:
        ours, theirs = os.fstat(source.fileno()).st_size, os.fstat(existing.fileno()).st_size
        common = _common(source, existing)
        if common == ours == theirs:
            os.fsync(existing.fileno())
            return _Settled(done=True)
        if name.history and (stubs := _settle_stubs(source, existing)):
            return stubs
        if common == theirs < ours and (name.segment is not None or _is_cut(existing)):
            return _set_aside(target, os.fstat(existing.fileno()), ours)
    if ours == theirs and name.segment and (lsn := _left_at(path, name, source, common)):
        return _Settled(
            done=True,
            note=f"{path} and {target} differ after {lsn} only, where timeline {name.timeline} was "
            "left for another: the archived one stays",
        )
    raise Refused(
        f"{path} ({ours} bytes) differs from {target} ({theirs} bytes) at byte {common}; expected "
        "the same: two servers wrote one timeline, or the archive's copy is damaged. Find out "
        "which one is right; if it is this one, move the other away"
    )


def _settle_stubs(source: "FileIO", existing: "FileIO") -> _Settled | None:
    ours, theirs = _names_nobody(source), _names_nobody(existing)
    if ours:
        return _Settled(done=True)
    return _Settled(replace=True) if theirs else None


def _is_cut(file: "FileIO") -> bool:
    file.seek(0)
    return not file.readall().endswith(b"\n")


def _set_aside(target: str, short: os.stat_result, expected: int) -> _Settled:
    """Rename an interrupted copy. One that is still being written goes on under the new name."""
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = f"{target}.short-{when}-{os.urandom(4).hex()}"
    try:
        os.rename(target, aside)
    except FileNotFoundError:
        return _Settled()
    moved = os.stat(aside)
    if (moved.st_dev, moved.st_ino) != (short.st_dev, short.st_ino):
        # Another server was faster, and this is what it archived.
        _give_back(aside, target)
        return _Settled()
    return _Settled(
        note=f"{target} held the first {short.st_size} of {expected} bytes, an interrupted copy: "
        f"it is archived anew, and the old one is now {aside}"
    )


def _give_back(aside: str, target: str) -> None:
    """Undo a rename; where a third server has taken the name, one of two equal copies goes."""
    for _ in range(_LINK_TRIES):
        with suppress(FileExistsError):
            os.link(aside, target)
            break
        placed = _open_if_there(target)
        if placed is None:
            continue
        with placed, open(aside, "rb", buffering=0) as ours:
            common = _common(ours, placed)
            if not common == os.fstat(ours.fileno()).st_size == os.fstat(placed.fileno()).st_size:
                return
        break
    else:
        return
    _sync_dir(os.path.dirname(target))
    os.unlink(aside)


def _left_at(path: str, name: _Name, source: "FileIO", common: int) -> str:
    """The LSN where the timeline of the segment was left, if both files have all up to there."""
    from pathlib import Path

    from pgregent.adapters.postgres.wal import fork_point, format_lsn

    here = Path(os.path.dirname(path))
    contents = (here.joinpath(history.text).read_bytes() for history in _histories(str(here)))
    forks = (fork_point(content, name.timeline) for content in contents)
    last = max((lsn for lsn in forks if lsn is not None), default=0)
    start = _read_segment(source, path).start_lsn
    return format_lsn(last) if start < last <= start + common else ""


def _common(one: "FileIO", other: "FileIO") -> int:
    """How many bytes from the start on are the same."""
    one.seek(0)
    other.seek(0)
    same = 0
    while True:
        a, b = one.read(CHUNK), other.read(CHUNK)
        if a != b or not a:
            break
        same += len(a)
    pairs = enumerate(zip(a, b, strict=False))
    return same + next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _open_if_there(path: str) -> "FileIO | None":
    try:
        return open(path, "rb", buffering=0)
    except FileNotFoundError:
        return None


def _write_temporary(folder: str, name: _Name, source: "FileIO") -> str:
    """A synced copy under a name that nobody else uses."""
    incoming = os.path.join(folder, INCOMING)
    with suppress(FileExistsError):
        os.mkdir(incoming, 0o750)
    _remove_leftovers(incoming)
    path = os.path.join(incoming, f"{name.text}.{os.urandom(8).hex()}")
    _copy(source, path, os.O_EXCL)
    return path


def _remove_leftovers(incoming: str) -> None:
    """Remove what killed runs left, once it is so old that nobody writes it any more."""
    oldest = time.time() - LEFTOVER_AGE_S
    with suppress(OSError), os.scandir(incoming) as entries:
        for entry in entries:
            # Another server may be removing the same.
            with suppress(OSError):
                if _TEMPORARY.fullmatch(entry.name) and entry.stat().st_mtime < oldest:
                    os.unlink(entry.path)


def _copy(source: "FileIO", path: str, flag: int) -> None:
    # PostgreSQL's umask decides whether the group may read, as it does for the data directory.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flag, 0o640)
    try:
        with open(fd, "wb", buffering=0) as file:
            source.seek(0)
            while chunk := source.read(CHUNK):
                left = memoryview(chunk)
                while left:
                    left = left[file.write(left) :]
            os.fsync(fd)
            if file.tell() != os.fstat(source.fileno()).st_size:
                raise Refused(f"the file changed while it was copied to {path}; try again")
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise


def _make_folder(archive: str, system_id: int) -> str:
    # Only below an archive that is there: a mount that is missing must not fill the root disk.
    if not os.path.isdir(archive):
        raise Refused(_no_archive(archive))
    folder = os.path.join(archive, str(system_id))
    try:
        os.mkdir(folder, 0o750)
    except FileExistsError:
        return folder
    _sync_dir(archive)
    return folder


def _no_archive(archive: str) -> str:
    return (
        f"{archive} is not a directory; expected the archive: mount it, or create it for the user "
        "that PostgreSQL runs as"
    )


def _fetch(archive: str, name: _Name, path: str, system_id: int | None) -> bool:
    system_id = _known(_system_id(path, system_id), path)
    folder = os.path.join(archive, str(system_id))
    wanted = os.path.join(folder, name.text)
    source = _open_if_there(wanted)
    if source is None:
        if os.path.isdir(folder):
            return False
        if not os.path.isdir(archive):
            raise Refused(_no_archive(archive))
        raise Refused(
            f"{folder} is not there: nothing of this cluster (system identifier {system_id}) was "
            f"archived in {archive}; is it the right archive?"
        )
    with source:
        if name.segment is not None:
            _check_segment(source, wanted, name, system_id)
        else:
            _check_text(source, wanted)
        # The server asks for one file at a time, so there is one such name to write over.
        temporary = f"{path}.pgregent"
        _copy(source, temporary, os.O_TRUNC)
    os.replace(temporary, path)
    _sync_dir(os.path.dirname(path) or ".")
    return True


def _parse_name(text: str) -> _Name:
    match = _NAME.fullmatch(text)
    if match is None or (match["partial"] and match["backup"]):
        raise Refused(
            f"{text!r} is not a file of pg_wal; expected a segment, .partial, .history or .backup"
        )
    if match["history"]:
        return _Name(text, int(match["history"], 16), None, True)
    segment = None if match["backup"] else (int(match[2], 16), int(match[3], 16))
    return _Name(text, int(match[1], 16), segment, False)


def _check_segment(file: "FileIO", path: str, name: _Name, system_id: int | None) -> _Segment:
    """Refuse what is not the whole segment of that name, of that cluster."""
    found = _read_segment(file, path)
    if system_id is not None and found.system_id != system_id:
        raise Refused(
            f"{path} is of the cluster with system identifier {found.system_id}, expected "
            f"{system_id}: it does not belong here; find out who put it there"
        )
    size = os.fstat(file.fileno()).st_size
    if size != found.size:
        raise Refused(
            f"{path} has {size} bytes, expected {found.size}: an interrupted copy; move it away, "
            "and archive it again from a server that has all of it"
        )
    assert name.segment is not None
    start = (name.segment[0] << 32) + name.segment[1] * found.size
    if found.start_lsn != start:
        raise Refused(
            f"{path} holds the WAL from byte {found.start_lsn} on, expected {start}, which its "
            "name says: it was renamed or recycled; move it away"
        )
    return found


def _read_segment(file: "FileIO", path: str) -> _Segment:
    file.seek(0)
    data = file.read(_HEADER.size)
    if len(data) < _HEADER.size:
        raise Refused(
            f"{path} has {len(data)} bytes, expected a WAL segment: an interrupted copy; move it "
            "away, and archive it again from a server that has all of it"
        )
    _, info, _, address, _, system_id, size, _ = _HEADER.unpack(data)
    megabytes, rest = divmod(size, 1 << 20)
    power_of_two = megabytes.bit_count() == 1 and megabytes <= 1024
    if not info & _LONG_HEADER_FLAG or rest or not power_of_two or not system_id:
        raise Refused(
            f"{path} does not begin with the header of a WAL segment; was it made by a machine of "
            "another byte order, compressed, or overwritten?"
        )
    return _Segment(system_id, size, address)


def _check_text(file: "FileIO", path: str) -> None:
    if _is_cut(file):
        raise Refused(
            f"{path} does not end with a full line: an interrupted copy; move it away, and archive "
            "it again from a server that has all of it"
        )


def _data_dir(path: str) -> str | None:
    """The data directory of `path` in pg_wal. pg_rewind names it in full, a server is in it."""
    above = os.path.dirname(os.path.dirname(path)) or "."
    for data_dir in (above, "."):
        if os.path.exists(os.path.join(data_dir, "global", "pg_control")):
            return data_dir
    return None


def _system_id(path: str, given: int | None) -> int | None:
    """The cluster's identifier as the control file or the caller says it."""
    data_dir = _data_dir(path)
    if data_dir is None:
        return given
    control = os.path.join(data_dir, "global", "pg_control")
    with open(control, "rb", buffering=0) as file:
        data = file.read(_CONTROL.size)
    system_id, version, catalog = _CONTROL.unpack(data) if len(data) == _CONTROL.size else (0, 0, 0)
    if not system_id or not 1000 <= version < 10000 or not 2 * 10**8 <= catalog < 3 * 10**8:
        raise Refused(
            f"{control} is not a control file that a PostgreSQL on this machine wrote; expected a "
            "data directory"
        )
    if given not in (None, system_id):
        raise Refused(f"{control} says system identifier {system_id}, --system-id says {given}")
    return system_id


def _known(system_id: int | None, path: str) -> int:
    if system_id is None:
        raise Refused(
            f"{path} is in no data directory, and neither is the current directory one; say whose "
            "archive is meant with --system-id (pg_controldata shows it)"
        )
    return system_id


def _refusal(error: OSError, doing: str) -> Refused:
    from pgregent.adapters.postgres.render import refusal

    # Of two names, the second is where it should have gone.
    names = (str(name) for name in (error.filename, error.filename2) if name is not None)
    return refusal(error, ": ".join((doing, *names)))


def _sync_dir(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
