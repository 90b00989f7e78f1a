"""`pgregent wal-archive` as archive_command and restore_command of real servers, and killed."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

import pgregent
from pgregent.adapters.postgres import render, sql, tools, wal
from tests.conformance.pg import Pg, Servers, copy_tree, eventually, servers_of, streams

MB16 = wal.SEGMENT_SIZE
STOP_RECOVERY = 200
# Dies (by DIE_BY) before the DIE_AT-th change or sync in the archive DIE_IN. FASTER: files that
# other servers put in place, one just before each rename or link.
CODE = """
import os, signal, sys
from pgregent.cli.main import main
die_at, where = int(os.environ.get("DIE_AT", "0")), os.environ.get("DIE_IN", "")
def step(*_):
    global die_at
    die_at -= 1
    if die_at == 0:
        os.kill(os.getpid(), int(os.environ.get("DIE_BY", signal.SIGKILL)))
faster = list(filter(None, os.environ.get("FASTER", "").split(":")))
def hook(event, args):
    if event in ("os.rename", "os.link") and faster:
        source, target = faster.pop(0), args[0 if event == "os.rename" else 1]
        later = faster[:]
        faster.clear()
        os.replace(source, target)
        faster.extend(later)
    if event in ("open", "os.link", "os.rename", "os.remove", "os.mkdir"):
        if any(str(arg).startswith(where) for arg in args):
            step()
if where:
    fsync = os.fsync
    os.fsync = lambda fd: (step(), fsync(fd))
if where or faster:
    sys.addaudithook(hook)
main(prog_name="pgregent")
"""


@dataclass
class Archive:
    """An archive of one cluster's and the command that PostgreSQL's user runs."""

    servers: Servers
    program: Path
    root: Path
    system_id: int

    @property
    def folder(self) -> Path:
        return self.root / str(self.system_id)

    @property
    def push_command(self) -> str:
        return f"{self.program} wal-archive push --archive {self.root} %p"

    @property
    def fetch_command(self) -> str:
        return f"{self.program} wal-archive fetch --archive {self.root} %f %p"

    def spawn(self, pg: Pg, *arguments: str | Path, **env: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [self.program, "wal-archive", *arguments],
            cwd=pg.data_dir,
            env={"PATH": os.environ["PATH"], **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            umask=0o077,
            user=None if pg.owner is None else pg.owner.uid,
            group=None if pg.owner is None else pg.owner.gid,
        )

    def run(self, pg: Pg, *arguments: str | Path, **env: str) -> tuple[int, str]:
        """Exit code and what it said; nothing ever goes to standard output."""
        with self.spawn(pg, *arguments, **env) as process:
            out, err = process.communicate(timeout=20)
        assert out == ""
        assert err.count("\n") <= 1, err
        return process.returncode, err.strip()

    def push(self, pg: Pg, name: str, **env: str) -> tuple[int, str]:
        return self.run(pg, "push", "--archive", self.root, f"pg_wal/{name}", **env)

    def fetch(self, pg: Pg, name: str, **env: str) -> tuple[int, str]:
        target = "pg_wal/RECOVERYXLOG"
        return self.run(pg, "fetch", "--archive", self.root, name, target, **env)

    def give(self, path: Path, content: bytes) -> None:
        """Put a file there as PostgreSQL's user would."""
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        if self.servers.owner is not None:
            for made in (path.parent, path):
                os.chown(made, self.servers.owner.uid, self.servers.owner.gid)

    def names(self) -> set[str]:
        return {entry.name for entry in self.folder.iterdir() if entry.is_file()}

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def write_program(servers: Servers) -> Path:
    """A `pgregent` that PostgreSQL's user can run, though it may not reach this interpreter."""
    owner, program = servers.owner, servers.root / "pgregent"
    packages = [str(Path(module.__path__[0]).parent) for module in (pgregent, click)]
    for python in (sys.executable, "/usr/bin/python3"):
        words = ["env", f"PYTHONPATH={':'.join(packages)}", python, "-P", "-B", "-c", CODE]
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        program.chmod(0o755)
        tried = subprocess.run(
            [program, "--version"],
            check=False,
            capture_output=True,
            cwd="/",
            timeout=20,
            user=None if owner is None else owner.uid,
            group=None if owner is None else owner.gid,
        )
        if tried.returncode == 0:
            return program
    pytest.skip(f"no Python that PostgreSQL's user can run: {tried.stderr.decode()[-200:]}")


@pytest.fixture(scope="module")
def module_servers() -> Iterator[Servers]:
    with servers_of(tools.find_bin_dir()) as servers:
        yield servers


@pytest.fixture
def archive(module_servers: Servers) -> Iterator[Archive]:
    servers = module_servers
    root = servers.root / "archive"
    root.mkdir()
    if servers.owner is not None:
        os.chown(root, servers.owner.uid, servers.owner.gid)
    system_id = wal.controldata(servers.bin_dir, servers.template).system_identifier
    yield Archive(servers, write_program(servers), root, system_id)
    servers.close()
    shutil.rmtree(root)


async def switch(pg: Pg, rows: int = 10) -> str:
    """Write something, complete the segment, return its name."""
    await pg.execute("CREATE TABLE IF NOT EXISTS t (i int)")
    await pg.execute("INSERT INTO t SELECT generate_series(1, %s)", rows)
    names = await pg.execute("SELECT pg_walfile_name(pg_switch_wal())")
    return str(names[0][0])


async def archived(pg: Pg, *names: str, folder: Path) -> None:
    async def done() -> bool:
        return all((folder / name).exists() for name in names)

    try:
        await eventually(f"{pg.name} archives {names}", done)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{pg.log.read_text()[-3000:]}") from error


async def failures(pg: Pg) -> tuple[int, str]:
    rows = await pg.execute("SELECT failed_count, last_failed_wal FROM pg_stat_archiver")
    return int(str(rows[0][0])), str(rows[0][1])


async def nothing_waits(pg: Pg) -> None:
    status = pg.data_dir / "pg_wal" / "archive_status"

    async def done() -> bool:
        return not list(status.glob("*.ready"))

    try:
        await eventually(f"{pg.name} has archived all", done)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{pg.log.read_text()[-3000:]}") from error


async def stopped_with_segments(archive: Archive) -> tuple[Pg, str, str]:
    """A stopped server with two complete segments, nothing archived."""
    pg = await archive.servers.primary("p")
    first, second = await switch(pg), await switch(pg)
    pg.stop()
    return pg, first, second


def segment(pg: Pg, name: str) -> bytes:
    return (pg.data_dir / "pg_wal" / name).read_bytes()


async def test_archive_command_archives_all_and_once(archive: Archive) -> None:
    pg = await archive.servers.primary("p", archive_mode="on", archive_command=archive.push_command)
    names = [await switch(pg) for _ in range(4)]
    await archived(pg, *names, folder=archive.folder)
    assert await failures(pg) == (0, "None")
    for name in names:
        assert (archive.folder / name).read_bytes() == segment(pg, name)
        assert (archive.folder / name).stat().st_mode & 0o777 == 0o600
        assert archive.push(pg, name) == (0, "")
    assert archive.names() == set(names)
    assert list((archive.folder / "incoming").iterdir()) == []


async def test_another_file_of_that_name_is_neither_replaced_nor_taken(archive: Archive) -> None:
    pg, first, second = await stopped_with_segments(archive)
    ours, target = segment(pg, first), archive.folder / first
    damaged = ours[:100_000] + b"\1" + ours[100_001:]
    archive.give(target, damaged)
    code, said = archive.push(pg, first)
    assert code == 1
    assert f"pg_wal/{first}" in said and str(target) in said and "at byte 100000" in said
    assert target.read_bytes() == damaged

    # A short one that is not the beginning of ours stays too.
    archive.give(target, damaged[:200_000])
    assert archive.push(pg, first)[0] == 1
    assert target.read_bytes() == damaged[:200_000]

    # Renamed, and another cluster's.
    (pg.data_dir / "pg_wal" / "0000000100000000000000AA").write_bytes(segment(pg, second))
    code, said = archive.push(pg, "0000000100000000000000AA")
    assert code == 1 and "renamed or recycled" in said
    foreign = ours[:24] + (7).to_bytes(8, sys.byteorder) + ours[32:]
    (pg.data_dir / "pg_wal" / first).write_bytes(foreign)
    code, said = archive.push(pg, first)
    assert code == 1 and "system identifier 7" in said and str(archive.system_id) in said
    (pg.data_dir / "pg_wal" / first).write_bytes(ours[:-1])
    code, said = archive.push(pg, first)
    assert code == 1 and f"{MB16 - 1} bytes, expected {MB16}" in said
    assert archive.names() == {first}


async def test_errors_name_what_to_do(archive: Archive) -> None:
    pg, first, _ = await stopped_with_segments(archive)
    code, said = archive.run(pg, "push", "--archive", "/nowhere", f"pg_wal/{first}")
    assert code == 1 and "/nowhere is not a directory" in said
    code, said = archive.push(pg, "0000000100000000000000FF")
    assert code == 1 and "No such file" in said
    code, said = archive.push(pg, "xlogtemp.123")
    assert code == 1 and "'xlogtemp.123' is not a file of pg_wal" in said
    (archive.servers.root / "loose").mkdir(exist_ok=True)
    loose = archive.servers.root / "loose" / "00000002.history"
    loose.write_bytes(b"1\t0/3000148\tx\n")
    code, said = archive.run(pg, "push", "--archive", archive.root, loose)
    assert code == 0, said  # the current directory says whose it is
    control = pg.data_dir / "global" / "pg_control"
    control.rename(control.with_name("gone"))
    code, said = archive.run(pg, "push", "--archive", archive.root, loose)
    assert code == 1 and "--system-id" in said
    code, said = archive.run(pg, "push", "--archive", archive.root, "--system-id", "9", loose)
    assert code == 0 and (archive.root / "9" / "00000002.history").exists()
    assert archive.push(pg, first) == (0, "")  # a segment says it itself
    control.write_bytes(b"\0" * 8192)
    code, said = archive.push(pg, first)
    assert code == 1 and "is not a control file" in said


async def test_killed_anywhere_nothing_is_lost_or_half_there(archive: Archive) -> None:
    pg, first, _ = await stopped_with_segments(archive)
    ours, target = segment(pg, first), archive.folder / first
    for existing in (None, ours, ours[:5_000_000], b""):
        for die_at in range(1, 40):
            archive.clear()
            if existing is not None:
                archive.give(target, existing)
            code, _ = archive.push(pg, first, DIE_AT=str(die_at), DIE_IN=str(archive.root))
            found = target.read_bytes() if target.exists() else None
            asides = [p.read_bytes() for p in archive.folder.glob("*.short-*")]
            assert found in (None, ours, existing)
            if existing is not None:
                assert existing in (found, *asides) or found == ours == existing
            assert archive.push(pg, first)[0] == 0
            assert target.read_bytes() == ours
            if code == 0:
                assert die_at > 3
                break
            assert code == -signal.SIGKILL
        else:
            raise AssertionError("it never got through")


async def test_killed_while_it_copies(archive: Archive) -> None:
    pg, first, _ = await stopped_with_segments(archive)
    incoming, target = archive.folder / "incoming", archive.folder / first
    archive.give(incoming.parent / "x", b"")
    interrupted = 0
    for _ in range(20):
        target.unlink(missing_ok=True)
        before = set(incoming.iterdir()) if incoming.exists() else set[Path]()
        process = archive.spawn(pg, "push", "--archive", archive.root, f"pg_wal/{first}")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and process.poll() is None:
            new = set(incoming.iterdir()) - before if incoming.exists() else set[Path]()
            if new:
                process.kill()
                break
        process.communicate(timeout=10)
        left = set(incoming.iterdir()) - before
        interrupted += any(path.stat().st_size < MB16 for path in left)
        assert not target.exists() or target.read_bytes() == segment(pg, first)
    assert interrupted >= 5
    # What was left is removed when it is old, and nothing else is.
    left = list(incoming.iterdir())
    (incoming / "somebody's").touch()
    for path in (*left[1:], incoming / "somebody's"):
        os.utime(path, (time.time() - 7200,) * 2)
    target.unlink(missing_ok=True)
    assert archive.push(pg, first) == (0, "")
    assert set(incoming.iterdir()) == {left[0], incoming / "somebody's"}


async def test_many_servers_archive_the_same_at_once(archive: Archive) -> None:
    pg, first, _ = await stopped_with_segments(archive)
    ours, target = segment(pg, first), archive.folder / first
    for existing in (None, ours[:1_000_000]):
        archive.clear()
        if existing is not None:
            archive.give(target, existing)
        arguments = ("push", "--archive", archive.root, f"pg_wal/{first}")
        processes = [archive.spawn(pg, *arguments) for _ in range(8)]
        said = [process.communicate(timeout=30)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * 8, said
        assert target.read_bytes() == ours
        asides = [path.read_bytes() for path in archive.folder.glob("*.short-*")]
        assert asides == ([] if existing is None else [existing])
        assert list((archive.folder / "incoming").iterdir()) == []


async def test_what_a_faster_server_archived_stays(archive: Archive) -> None:
    pg, first, _ = await stopped_with_segments(archive)
    target, other = archive.folder / first, archive.folder / "other"
    archive.give(target, segment(pg, first)[:1_000_000])
    archive.give(other, segment(pg, first))
    inode = other.stat().st_ino
    assert archive.push(pg, first, FASTER=str(other)) == (0, "")
    assert target.stat().st_ino == inode
    assert archive.names() == {first}

    # And a third one while the second one's is given back: of two equal copies one goes.
    third = archive.folder / "third"
    archive.give(target, segment(pg, first)[:1_000_000])
    archive.give(other, segment(pg, first))
    archive.give(third, segment(pg, first))
    inode = third.stat().st_ino
    assert archive.push(pg, first, FASTER=f"{other}:{third}") == (0, "")
    assert target.stat().st_ino == inode
    assert archive.names() == {first}

    target.unlink()
    damaged = segment(pg, first)[:-1] + b"x"
    archive.give(other, damaged)
    assert archive.push(pg, first, FASTER=str(other))[0] == 1
    assert target.read_bytes() == damaged


async def test_history_files_and_stubs(archive: Archive) -> None:
    pg, *_ = await stopped_with_segments(archive)
    real2, real4 = b"1\t0/3000148\tx\n", b"1\t0/3000148\tx\n\n2\t0/4000000\ty\n"
    local = pg.data_dir / "pg_wal"

    def have(number: int, content: bytes) -> str:
        name = wal.history_name(number)
        archive.give(local / name, content)
        return name

    # A stub alone would stop standbys from starting: it waits for a later real one.
    stub3 = have(3, wal.STUB)
    assert archive.push(pg, stub3) == (0, "")
    assert stub3 not in archive.names()
    four = have(4, real4)
    two = have(2, real2)
    assert archive.push(pg, four) == (0, "")
    assert archive.names() == {two, stub3, four}
    assert archive.push(pg, stub3) == (0, "")

    # A real one replaces a stub, never the other way round, and no other real one.
    have(3, real2)
    assert archive.push(pg, stub3) == (0, "")
    assert (archive.folder / stub3).read_bytes() == real2
    have(3, wal.STUB)
    assert archive.push(pg, stub3) == (0, "")
    assert (archive.folder / stub3).read_bytes() == real2
    have(4, real2)
    code, said = archive.push(pg, four)
    assert code == 1 and str(archive.folder / four) in said
    assert (archive.folder / four).read_bytes() == real4
    # One lineage may be the beginning of another: that is not an interrupted copy. This is.
    archive.give(archive.folder / four, real4[:-4])
    have(4, real4)
    code, said = archive.push(pg, four)
    assert code == 0 and "interrupted copy" in said
    assert (archive.folder / four).read_bytes() == real4


async def test_fetch_tells_absent_from_failed(archive: Archive) -> None:
    pg, first, second = await stopped_with_segments(archive)
    got = pg.data_dir / "pg_wal" / "RECOVERYXLOG"
    code, said = archive.fetch(pg, first)
    assert code == STOP_RECOVERY and "nothing of this cluster" in said
    assert archive.push(pg, first)[0] == 0
    assert archive.fetch(pg, first) == (0, "")
    assert got.read_bytes() == segment(pg, first)
    got.unlink()
    assert archive.fetch(pg, second) == (1, "")
    assert archive.fetch(pg, "00000002.history") == (1, "")
    interrupt = {"DIE_AT": "1", "DIE_IN": str(archive.root), "DIE_BY": str(int(signal.SIGINT))}
    assert archive.fetch(pg, first, **interrupt)[0] == -signal.SIGINT

    whole = segment(pg, first)
    foreign = whole[:24] + (7).to_bytes(8, sys.byteorder) + whole[32:]
    for bad, why in (
        (whole[:-1], f"{MB16 - 1} bytes, expected {MB16}"),
        (b"", "0 bytes"),
        (foreign, "system identifier 7"),
        (segment(pg, second), "renamed or recycled"),
        (b"\0" * MB16, "does not begin with the header"),
    ):
        archive.give(archive.folder / first, bad)
        code, said = archive.fetch(pg, first)
        assert code == STOP_RECOVERY and why in said and str(archive.folder / first) in said
        assert not got.exists()
    archive.give(archive.folder / "00000002.history", b"1\t0/30")
    code, said = archive.fetch(pg, "00000002.history")
    assert code == STOP_RECOVERY and "full line" in said

    # What cannot be read: a directory, for root and everybody else.
    (archive.folder / second).mkdir()
    code, said = archive.fetch(pg, second)
    assert code == STOP_RECOVERY and "Is a directory" in said
    # Mistakes in the command itself are not the end of the archive either.
    for arguments in (("fetch", "--archve", "x"), ("fetch",), ("ftch",)):
        with archive.spawn(pg, *arguments) as process:
            process.communicate(timeout=20)
        assert process.returncode == STOP_RECOVERY
    # A standby asks again; it must not be stopped for that.
    (pg.data_dir / "standby.signal").touch()
    code, said = archive.fetch(pg, second)
    assert code == 1 and "Is a directory" in said


def restored(archive: Archive, name: str, backup: Path, signal_file: str, command: str) -> Pg:
    """A copy of a base backup that will recover from the archive alone."""
    pg = Pg(name, archive.servers.bin_dir, archive.servers.root / name, archive.servers.owner)
    archive.servers.made.append(pg)
    copy_tree(backup, pg.data_dir)
    pg.configure(archive_mode="off", wal_retrieve_retry_interval="50ms")
    pg.set_role(render.Role(restore_command=command))
    render.set_standby_signal(pg.data_dir, signal_file == "standby.signal", pg.owner)
    render.write_file(pg.data_dir / signal_file, b"", pg.owner)
    return pg


async def take_backup(archive: Archive, pg: Pg) -> Path:
    target = archive.servers.root / "backup"
    shutil.rmtree(target, ignore_errors=True)
    await tools.basebackup(pg.bin_dir, target, pg.upstream(pg), owner=pg.owner)
    return target


async def count(pg: Pg) -> object:
    return (await pg.execute("SELECT count(*) FROM t"))[0][0]


async def ended(pg: Pg) -> str:
    """The log of a server that gives up."""

    async def gone() -> bool:
        return pg.process is None or pg.process.poll() is not None

    await eventually(f"{pg.name} ends", gone)
    return pg.log.read_text()


async def test_recovery_stops_at_a_fault_and_ends_at_the_end(archive: Archive) -> None:
    pg = await archive.servers.primary("p", archive_mode="on", archive_command=archive.push_command)
    backup = await take_backup(archive, pg)
    names = [await switch(pg, 100) for _ in range(3)]
    await archived(pg, *names, folder=archive.folder)
    pg.stop()

    whole = (archive.folder / names[1]).read_bytes()
    archive.give(archive.folder / names[1], whole[:1_000_000])
    copy = restored(archive, "r", backup, "recovery.signal", archive.fetch_command)
    copy.spawn()
    log = await ended(copy)
    assert "FATAL:  could not restore file" in log and "exit code 200" in log
    assert f"1000000 bytes, expected {MB16}" in log
    assert not list((copy.data_dir / "pg_wal").glob("*.history"))

    archive.give(archive.folder / names[1], whole)
    await copy.start()

    async def promoted() -> bool:
        return (await copy.status()).timeline == 2

    await eventually("recovery ends", promoted)
    assert await count(copy) == 300


async def test_standby_follows_a_promotion_through_the_archive_alone(archive: Archive) -> None:
    command = archive.push_command
    a = await archive.servers.primary("a", archive_mode="on", archive_command=command)
    backup = await take_backup(archive, a)
    c = restored(archive, "c", backup, "standby.signal", archive.fetch_command)
    await c.start()
    b = await archive.servers.standby("b", a, archive_mode="on", archive_command=command)
    await switch(a, 100)

    async def has(rows: int) -> bool:
        return (await c.execute("SELECT to_regclass('t') IS NOT NULL"))[0][0] is True and (
            await count(c) == rows
        )

    await eventually("c replays", lambda: has(100))
    a.stop()
    async with b.session() as conn:
        assert await sql.promote(conn, timeout=10) == sql.Promoted(2)
    await switch(b, 50)
    await eventually("c follows", lambda: has(150))

    # The archive goes away for a while: the standby goes on, and says what is wrong.
    away = archive.root.with_name("away")
    archive.root.rename(away)

    async def said() -> bool:
        return f"{archive.root} is not a directory" in c.log.read_text()

    await eventually("c says so", said)
    away.rename(archive.root)
    await switch(b, 1)
    await eventually("c goes on", lambda: has(151))
    assert c.process is not None and c.process.poll() is None


def overwrite_tail(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(MB16 - 4096)
        file.write(b"old" * 1000)


async def promoted_by_hand(pg: Pg, timeline: int) -> None:
    async with pg.session() as conn:
        assert await sql.promote(conn, timeout=10) == sql.Promoted(timeline)


def plain(folder: Path, copy: str = "cp %p {}") -> str:
    """The command shape that is repaired here."""
    target = f"{folder}/%f"
    return f"mkdir -p {folder} && test ! -f {target} && {copy.format(target)}"


async def reload_archive_command(pg: Pg, command: str) -> None:
    pg.configure(archive_mode="always", archive_command=command)
    async with pg.session() as conn:
        await sql.reload(conn)


async def test_fault_1_a_second_promoter_is_not_blocked_by_the_same_history(
    archive: Archive,
) -> None:
    options: dict[str, render.Value] = {
        "archive_mode": "always",
        "archive_command": plain(archive.folder),
    }
    a = await archive.servers.primary("a", **options)
    b = await archive.servers.standby("b", a, **options)
    c = await archive.servers.standby("c", a, **options)
    await a.execute("CREATE TABLE t (i int)")
    await eventually("b streams", lambda: streams(b, a))
    await eventually("c streams", lambda: streams(c, a))
    a.stop()
    await promoted_by_hand(b, 2)
    await archived(b, "00000002.history", folder=archive.folder)
    b.stop(signal.SIGKILL)
    await promoted_by_hand(c, 2)

    async def blocked() -> bool:
        return (await failures(c))[1] == "00000002.history"

    await eventually("c is blocked", blocked)
    await reload_archive_command(c, archive.push_command)
    name = await switch(c)
    await archived(c, name, folder=archive.folder)
    await nothing_waits(c)


async def test_fault_2_an_interrupted_copy_is_set_aside(archive: Archive) -> None:
    pg = await archive.servers.primary(
        "p", archive_mode="always", archive_command=plain(archive.folder)
    )
    backup = await take_backup(archive, pg)
    await nothing_waits(pg)
    interrupted = plain(archive.folder, "head -c 5000000 %p >{} && false")
    await reload_archive_command(pg, interrupted)
    name = await switch(pg)

    async def blocked() -> bool:
        return await failures(pg) > (1, name)

    await eventually("the archiver is blocked", blocked)
    assert (archive.folder / name).stat().st_size == 5_000_000
    copying = f"cp {archive.folder}/%f %p"
    broken = restored(archive, "r", backup, "recovery.signal", copying)
    broken.spawn()
    assert "has wrong size: 5000000" in await ended(broken)

    await reload_archive_command(pg, archive.push_command)
    await archived(pg, name, folder=archive.folder)
    await nothing_waits(pg)
    assert (archive.folder / name).read_bytes() == segment(pg, name)
    (aside,) = archive.folder.glob(f"{name}.short-*")
    assert aside.stat().st_size == 5_000_000
    assert f"is now {aside}" in pg.log.read_text()


async def test_all_members_archive_to_one_place_across_a_failover(archive: Archive) -> None:
    """archive_mode = always: the same files from everybody, stubs, and an old timeline's end."""
    options: dict[str, render.Value] = {
        "archive_mode": "always",
        "archive_command": archive.push_command,
    }
    a = await archive.servers.primary("a", **options)
    b, c, d = [await archive.servers.standby(name, a, **options) for name in "bcd"]
    await switch(a)
    await a.execute("INSERT INTO t VALUES (0)")
    for pg in (b, c, d):
        await eventually(f"{pg.name} streams", lambda pg=pg: streams(pg, a))
    a.stop(signal.SIGKILL)
    # A reused file ends in what it held before, on each server something else.
    end = max(p.name for p in (d.data_dir / "pg_wal").glob("0" * 7 + "1" + "?" * 16))
    overwrite_tail(d.data_dir / "pg_wal" / end)
    for pg in (b, c, d):
        wal.ensure_history(pg.data_dir, {}, below=4, owner=pg.owner)
    await promoted_by_hand(b, 4)
    for pg in (c, d):
        pg.set_role(render.Role(upstream=pg.upstream(b)))
        async with pg.session() as conn:
            await sql.reload(conn)
    names = [await switch(b) for _ in range(3)]
    for pg in (c, d):
        await eventually(f"{pg.name} follows", lambda pg=pg: streams(pg, b))
    await archived(b, *names, *(f"0000000{n}.history" for n in (2, 3, 4)), folder=archive.folder)
    for pg in (b, c, d):
        await nothing_waits(pg)
        assert await failures(pg) == (0, "None")
    # c and d both archived the end of timeline 1, which b left as .partial.
    assert {end, f"{end}.partial"} <= archive.names()
    logs = c.log.read_text() + d.log.read_text()
    assert f"pg_wal/{end} and {archive.folder / end} differ after" in logs
    assert (archive.folder / "00000003.history").read_bytes() == wal.STUB
