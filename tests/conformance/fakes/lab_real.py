"""Real servers behind the scenarios, of one installation, in a folder of their own."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TypeVar

import psycopg

from pgregent.adapters.postgres import render, sql, tools, wal
from pgregent.core.errors import Unavailable
from tests.conformance import pg
from tests.conformance.fakes.lab import Commit, Lab, Part, Rewind, Session, Stop
from tests.conformance.pg import Pg, Servers

T = TypeVar("T")
SETTINGS: Mapping[str, render.Value] = {
    "fsync": False,
    # What is killed leaves nothing outside its folder then.
    "dynamic_shared_memory_type": "mmap",
    "autovacuum": False,
    "wal_retrieve_retry_interval": "100ms",
    "wal_sender_timeout": "3s",
}
MORE_CONNECTIONS = 110
POLLS = "waiting for WAL to become available"
POLLS_ENOUGH = 3
"""A server that has read all of its WAL and takes no connections then never will."""
FORKED_OFF = "forked off current database system timeline"
SIGNALS = {Stop.FAST: signal.SIGINT, Stop.IMMEDIATE: signal.SIGQUIT, Stop.KILL: signal.SIGKILL}
COMMIT_ALL_THE_TIME = """
CREATE PROCEDURE commit_all_the_time() LANGUAGE plpgsql AS $$
DECLARE i int := 1000000;
BEGIN
    LOOP
        INSERT INTO public.writes VALUES (i);
        COMMIT;
        RAISE NOTICE '%', i;
        i := i + 1;
    END LOOP;
END $$
"""


class RealSession(Session):
    """One connection; what it commits is a task that outlives a wait."""

    def __init__(self, lab: "RealLab", server: Pg, conn: sql.Connection) -> None:
        self._lab, self._pg, self._conn = lab, server, conn
        self._warnings: list[str] = []
        conn.add_notice_handler(lambda notice: self._warnings.append(notice.message_primary or ""))

    async def commit(self) -> Commit:
        commit = Commit(next(self._lab.numbers))
        task = asyncio.create_task(self._insert(commit))
        self._lab.clients[commit.number] = (self._pg, self._conn.info.backend_pid, task)

        if self._lab.without_new_sessions:
            await asyncio.wait({task}, timeout=5)
            return commit

        async def settled() -> bool:
            return task.done() or await self._lab.waits(commit)

        await self._lab.eventually("the commit waits, or is done", settled)
        commit.lsn = (await self._pg.status()).flush_lsn
        return commit

    async def _insert(self, commit: Commit) -> None:
        self._warnings.clear()
        try:
            await self._conn.execute("INSERT INTO public.writes VALUES (%s)", (commit.number,))
            commit.acked = not self._warnings
        except psycopg.OperationalError:
            pass  # Its server has ended, or its session was.


class RealLab(Lab):
    """Use `real_lab`, which cleans up."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self.major = tools.postgres_version(servers.bin_dir).major
        self._pgs: dict[str, Pg] = {}
        self._settings: dict[str, Mapping[str, render.Value]] = {}
        self._archives: Path | None = None
        self.numbers = count(1)
        self.clients: dict[int, tuple[Pg, int, asyncio.Task[None]]] = {}
        self._conns: list[sql.Connection] = []
        self._orphans: list[int] = []
        self.without_new_sessions = False

    def _end_orphans(self) -> None:
        for pid in self._orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._orphans.clear()

    def close(self) -> None:
        """End what still runs, in a way that gives shared memory back."""
        self._end_orphans()
        for server in self._pgs.values():
            server.signal_all(signal.SIGCONT)
            server.stop(signal.SIGQUIT)

    async def hang_up(self) -> None:
        """Once the servers have ended."""
        for conn in self._conns:
            await sql.close(conn)
        if tasks := [task for _, _, task in self.clients.values()]:
            await asyncio.wait(tasks, timeout=5)

    async def connect(self, name: str) -> Session:
        server = self._pgs[name]
        conn = await sql.connect(server.server, pg.ADMIN, timeout=1.0)
        self._conns.append(conn)
        return RealSession(self, server, conn)

    # Making and ending servers

    async def primary(self, name: str, names: str = "", *, archives: bool = False) -> None:
        settings: dict[str, render.Value] = {**SETTINGS}
        if archives:
            self._archives = self._servers.root / "archive"
            self._archives.mkdir()
            if self._servers.owner is not None:
                os.chown(self._archives, self._servers.owner.uid, self._servers.owner.gid)
            settings |= {"archive_mode": True, "archive_command": f"cp %p {self._archives}/%f"}
        self._settings[name] = settings
        made = self._pgs[name] = await self._servers.primary(name, **settings)
        await made.execute("CREATE TABLE writes (number int)")
        if names:
            await self.set_names(name, names)
            await self.checkpoint(name)

    async def standby(self, name: str, of: str) -> None:
        self._settings[name] = SETTINGS
        self._pgs[name] = await self._servers.standby(name, self._pgs[of], **SETTINGS)
        await self.streams(name, of)

    async def start(self, name: str, *, of: str | None = None, names: str = "") -> None:
        self._set_standby(name, of, names)
        await self._pgs[name].start()

    def _set_standby(self, name: str, of: str | None, names: str = "") -> None:
        server = self._pgs[name]
        # A rewind leaves its source's, and one that failed empty files.
        server.configure(**self._settings[name])
        upstream = None if of is None else server.upstream(self._pgs[of])
        server.set_role(render.Role(upstream=upstream, synchronous_standby_names=names))
        render.set_standby_signal(server.data_dir, True, self._servers.owner)

    async def start_primary(self, name: str, names: str = "") -> None:
        server = self._pgs[name]
        server.configure(**self._settings[name])
        server.set_role(render.Role(synchronous_standby_names=names))
        render.set_standby_signal(server.data_dir, False, self._servers.owner)
        await server.start()

    async def begin_stop(self, name: str, how: Stop) -> None:
        server = self._pgs[name]
        assert server.process is not None
        if how is Stop.KILL:
            self._end_orphans()
            server.signal_all(signal.SIGKILL)
        else:
            server.process.send_signal(SIGNALS[how])

    async def runs(self, name: str) -> bool:
        process = self._pgs[name].process
        return process is not None and process.poll() is None

    # What goes wrong

    @asynccontextmanager
    async def slow(self, name: str, part: Part) -> AsyncGenerator[None]:
        query = "SELECT pid FROM pg_stat_activity WHERE backend_type = %s"
        rows = await self._pgs[name].execute(query, part.value)
        pids = [int(str(row[0])) for row in rows]
        assert pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    @asynccontextmanager
    async def frozen(self, name: str) -> AsyncGenerator[None]:
        self._pgs[name].signal_all(signal.SIGSTOP)
        try:
            yield
        finally:
            self._pgs[name].signal_all(signal.SIGCONT)

    @asynccontextmanager
    async def postmaster_frozen(self, name: str) -> AsyncGenerator[None]:
        process = self._pgs[name].process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        self.without_new_sessions = True
        try:
            yield
        finally:
            self.without_new_sessions = False
            process.send_signal(signal.SIGCONT)

    async def replay_stops(self, name: str, of: str) -> None:
        source = self._pgs[of]
        source.stop()
        source.configure(**SETTINGS, max_connections=MORE_CONNECTIONS)
        await source.start()

        async def paused() -> bool:
            return (await self._pgs[name].status()).replay_paused

        await self.eventually(f"replay of {name} is paused", paused)
        await self.streams(name, of)

    async def end_wait(self, commit: Commit, *, terminate: bool) -> None:
        server, pid, task = self.clients[commit.number]
        if terminate:
            await server.execute("SELECT pg_terminate_backend(%s)", pid)
        else:
            await server.execute("SELECT pg_cancel_backend(%s)", pid)
        await asyncio.wait({task}, timeout=10)

    async def orphan_commits(self, name: str) -> set[int]:
        server = self._pgs[name]
        assert server.process is not None
        await server.execute(COMMIT_ALL_THE_TIME)
        conn = await sql.connect(
            server.server, pg.ADMIN, timeout=5, settings={"client_min_messages": "notice"}
        )
        self._conns.append(conn)
        told: list[int] = []
        conn.add_notice_handler(lambda notice: told.append(int(notice.message_primary or 0)))
        loop = asyncio.create_task(_until_cut(conn.execute("CALL public.commit_all_the_time()")))
        self.clients[0] = (server, conn.info.backend_pid, loop)
        self._orphans.append(conn.info.backend_pid)

        async def committed() -> bool:
            return len(told) > 100

        await self.eventually("a client commits all the time", committed)
        server.process.kill()
        server.process.wait(10)
        told.clear()
        await self.eventually("it commits still", committed)
        after = told.copy()
        # What was under way to the client when the postmaster died may have been read after it.
        told.clear()
        await self.eventually("it commits still", committed)
        return {*after, *told}

    # Configuration

    async def set_names(self, name: str, names: str) -> None:
        server = self._pgs[name]
        server.set_role(render.Role(synchronous_standby_names=names))
        async with server.session() as conn:
            await sql.reload(conn)

        async def shown() -> bool:
            return (await server.status()).synchronous_standby_names == names

        await self.eventually(f"a new session at {name} shows {names!r}", shown)

    async def checkpoint(self, name: str) -> None:
        async with self._pgs[name].session() as conn:
            await sql.checkpoint(conn, timeout=10)

    async def _set_role(self, name: str, role: render.Role) -> None:
        self._pgs[name].set_role(role)
        async with self._pgs[name].session() as conn:
            await sql.reload(conn)

    async def follow(self, name: str, of: str) -> None:
        upstream = self._pgs[name].upstream(self._pgs[of])
        await self._set_role(name, render.Role(upstream=upstream))

    async def unfollow(self, name: str, *, restore: bool = False) -> None:
        command = f"cp {self._archives}/%f %p" if restore else ""
        await self._set_role(name, render.Role(restore_command=command))

    async def switch_wal(self, name: str) -> int:
        rows = await self._pgs[name].execute(
            "SELECT pg_walfile_name(pg_current_wal_lsn()), pg_current_wal_lsn()::text,"
            " pg_switch_wal()::text"
        )
        segment, lsn, _ = (str(value) for value in rows[0])

        async def archived() -> bool:
            query = "SELECT last_archived_wal >= %s FROM pg_stat_archiver"
            return (await self._pgs[name].execute(query, segment))[0] == (True,)

        await self.eventually(f"{segment} is archived", archived)
        return wal.parse_lsn(lsn)

    # Timelines

    async def write_much(self, name: str) -> None:
        async with self._pgs[name].session() as conn:
            await conn.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 99999))")

    async def request_promotion(self, name: str) -> None:
        await self._pgs[name].execute("SELECT pg_promote(wait => false)")

    async def put_stub(self, name: str, timeline: int) -> None:
        path = self._pgs[name].data_dir / "pg_wal" / wal.history_name(timeline)
        render.write_file(path, wal.STUB, self._servers.owner)

    async def remove_late_stubs(self, name: str) -> None:
        wal.remove_late_stubs(self._pgs[name].data_dir)

    async def fails_to_start(self, name: str) -> bool:
        self._set_standby(name, None)
        server = self._pgs[name]
        before = server.log.stat().st_size
        server.spawn()

        async def decided() -> bool | None:
            try:
                await sql.close(await sql.connect(server.server, pg.ADMIN, timeout=2))
            except Unavailable:
                polls = server.log.read_bytes()[before:].decode().count(POLLS) >= POLLS_ENOUGH
                return True if polls or not await self.runs(name) else None
            return False

        async def known() -> list[bool]:
            return [found for found in [await decided()] if found is not None]

        (fails,) = await self.eventually(f"{name} starts, or not", known)
        if fails:
            server.stop(signal.SIGKILL)
        return fails

    async def rewind(self, name: str, source: str, *, checkpoint: bool = True) -> Rewind:
        if checkpoint:
            await self.checkpoint(source)
        match await self._pg_rewind(self._servers.bin_dir, name, source):
            case tools.NotRequired():
                return Rewind.NOT_REQUIRED
            case tools.Rewound():
                return Rewind.DONE
            case tools.Failed():
                return Rewind.FAILED

    async def _pg_rewind(self, bin_dir: Path, name: str, source: str) -> tools.RewindOutcome:
        target = self._pgs[name]
        upstream = target.upstream(self._pgs[source])
        return await tools.rewind(bin_dir, target.data_dir, upstream, owner=self._servers.owner)

    async def rewind_fails(self, name: str, source: str) -> None:
        await self.checkpoint(source)
        bin_dir = self._limited_tools()
        outcome = await self._pg_rewind(bin_dir, name, source)
        assert isinstance(outcome, tools.Failed), outcome

    def _limited_tools(self) -> Path:
        """pg_rewind that cannot write files of more than 64 kB, as on a disk that is full."""
        bin_dir = self._servers.root / "limited"
        bin_dir.mkdir(mode=0o755)
        for path in self._servers.bin_dir.iterdir():
            (bin_dir / path.name).symlink_to(path)
        tool = bin_dir / "pg_rewind"
        tool.unlink()
        real = self._servers.bin_dir / "pg_rewind"
        tool.write_text(f'#!/bin/sh\ntrap "" XFSZ\nulimit -f 128\nexec {real} "$@"\n')
        tool.chmod(0o755)
        return bin_dir

    async def tries_in_vain(self, name: str, of: str) -> None:
        log = self._pgs[name].log
        before = log.stat().st_size

        async def refused() -> bool:
            return log.read_bytes()[before:].decode().count(FORKED_OFF) >= 2

        await self.eventually(f"{name} finds that it is past the fork", refused)

    # Looking

    async def is_primary(self, name: str) -> bool:
        return not (await self._pgs[name].status()).in_recovery

    async def position(self, name: str) -> tuple[int, int]:
        server = self._pgs[name]

        async def read_all() -> tuple[int, int] | None:
            async with server.session() as conn:
                status = await sql.observe(conn)
                if not status.in_recovery:
                    return status.timeline, status.flush_lsn
                if status.receive_lsn == 0 and not await sql.startup_waits_for_wal(conn):
                    return None
                status = await sql.observe(conn)
            lsn = max(status.receive_lsn, status.replay_lsn)
            timeline = wal.wal_timeline_at(server.data_dir, lsn)
            return timeline or status.timeline, lsn

        found = await self.eventually(f"{name} has read its log", read_all)
        assert found is not None
        return found

    async def received(self, name: str) -> int | None:
        return (await self._pgs[name].status()).receive_lsn or None

    async def has_receiver(self, name: str) -> bool:
        async with self._pgs[name].session() as conn:
            return not await sql.walreceiver_gone(conn)

    async def counts(self, name: str, standby: str) -> bool:
        senders = (await self._pgs[name].status()).walsenders
        return any((s.application_name, s.sync_state) == (standby, "quorum") for s in senders)

    async def confirmed(self, name: str, standby: str) -> int:
        senders = (await self._pgs[name].status()).walsenders
        return max((s.flush_lsn for s in senders if s.application_name == standby), default=0)

    def _control(self, name: str) -> wal.ControlData:
        return wal.controldata(self._servers.bin_dir, self._pgs[name].data_dir)

    async def control_timeline(self, name: str) -> int:
        return self._control(name).timeline

    async def checkpoint_lsn(self, name: str) -> int:
        return self._control(name).checkpoint_lsn

    async def is_clean(self, name: str) -> bool:
        return self._control(name).shut_down

    async def reads(self, name: str) -> set[int]:
        rows = await self._pgs[name].execute("SELECT number FROM public.writes")
        return {int(str(row[0])) for row in rows}

    async def waits(self, commit: Commit) -> bool:
        server, pid, task = self.clients[commit.number]
        query = "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = %s"
        return not task.done() and (await server.execute(query, pid)) == [(True,)]

    async def mark(self, name: str) -> int:
        server = self._pgs[name]
        async with server.session({"synchronous_commit": "local"}) as conn:
            await conn.execute("SELECT pg_logical_emit_message(true, 'test', 'mark')")
            return (await sql.observe(conn)).flush_lsn

    async def eventually(self, what: str, check: Callable[[], Awaitable[T]]) -> T:
        return await pg.eventually(what, check)


async def _until_cut(work: Awaitable[object]) -> None:
    with suppress(psycopg.OperationalError):
        await work


@asynccontextmanager
async def real_lab(bin_dir: Path) -> AsyncGenerator[Lab]:
    """Servers of this installation; all gone at the end."""
    reached, template, owner = await asyncio.to_thread(pg.template_of, bin_dir)
    with pg.folder(owner) as root:
        servers = Servers(reached, root, template, owner)
        lab = RealLab(servers)
        try:
            yield lab
        finally:
            lab.close()
            servers.close()
            await lab.hang_up()
