"""The local server: guard, tools, SQL and files put together, one method per effect."""

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from pgregent.adapters.postgres import foreign, post_bootstrap, render, sql, tools, wal
from pgregent.adapters.postgres.guard_client import (
    DeadlinePassed,
    Emptied,
    Exited,
    Guard,
    GuardEvent,
    GuardLost,
    children_titled,
    remember_pid_file,
    remove_stale_pid_file,
)
from pgregent.adapters.postgres.layout import (
    DEFAULT_HBA,
    DEFAULT_PARAMETERS,
    ServerConfig,
    raise_to_primarys,
    slot_name,
)
from pgregent.adapters.postgres.observe import Observer
from pgregent.core.errors import Refused, Unavailable
from pgregent.core.events import Promoted, Sealed
from pgregent.core.types import Postgres
from pgregent.ports.postgres import Answer, Upstream

ARCHIVER_PATIENCE = 0.2
"""Seconds that a fast shutdown may take before its archiver is looked at, and between looks."""
PROMOTE_TIMEOUT = 15.0
SEAL_TIMEOUT = 10.0
BARRIER_TIMEOUT = 10.0
PROBE_TIMEOUT = 0.2
POLL = 0.005
NO_TRIGGER_FILE = 16
"""The major version from which PostgreSQL knows no promote_trigger_file."""
RELOADED_AFTER = 0.1
"""Seconds, several times wal_retrieve_retry_interval."""
OOM_ADJUST = {"PG_OOM_ADJUST_FILE": "/proc/self/oom_score_adj", "PG_OOM_ADJUST_VALUE": "0"}
"""PostgreSQL's children give up what protects agent, guard and postmaster from the OOM killer."""

P = ParamSpec("P")
T = TypeVar("T")


class LocalServer:
    """See ports.postgres.PostgresServer. Raises Refused at once for what cannot work."""

    def __init__(self, config: ServerConfig, on_set_aside: Callable[[Path, int], None]) -> None:
        self.config = config
        self._config_dir = config.config_dir
        self._on_set_aside = on_set_aside
        self._on_exit: Callable[[str], None] = lambda why: None
        self._guard: Guard | None = None
        self._start = 0
        self._stopping = False
        self._observer = Observer(config)
        self._closing = False
        self._connecting = asyncio.Lock()
        self._may_tidy = True
        self._tidying: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "files")
        self._open_to_clients: bool | None = None
        """What its pg_hba.conf lets in; None: an earlier agent wrote it."""

    async def _files(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` on files in their one thread: what an effect that was overtaken still writes
        is written before what overtook it writes."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(work, *args, **kwargs))

    # --- the guard -----------------------------------------------------------------------------

    async def open(self, on_exit: Callable[[str], None]) -> None:
        """See the port."""
        self._on_exit = on_exit
        await foreign.end(self.config)
        await self._connect_guard()

    async def _connect_guard(self) -> Guard:
        async with self._connecting:
            return await self._connect_guard_once()

    async def _connect_guard_once(self) -> Guard:
        if self._guard is not None and not self._guard.closed.is_set():
            return self._guard
        config = self.config
        guard = await Guard.connect_or_spawn(
            config.state_dir, config.data_dir, user=config.user, on_event=self._guard_event
        )
        status = await guard.status()
        self._guard, self._start = guard, status.start
        if status.descendants:
            with contextlib.suppress(OSError):
                self.config = self.config.as_started()
        self._observer.postmaster = status.postmaster if status.descendants else None
        return guard

    def _guard_event(self, event: GuardEvent) -> None:
        match event:
            case Exited(ended):
                self._observer.gone()
                if not self._stopping:
                    how = f"signal {ended.signal}" if ended.signal else f"exit code {ended.code}"
                    self._on_exit(f"its postmaster ended ({ended.cause or how})")
            case DeadlinePassed():
                self._on_exit("its authority ran out: the guard stopped it")
            case GuardLost(reason):
                if not self._closing:
                    self._observer.gone()
                    self._on_exit(f"its guard is gone ({reason})")
            case Emptied():
                pass

    @property
    def _server(self) -> sql.Server:
        return self.config.local

    # --- looking -------------------------------------------------------------------------------

    async def observe(self) -> Postgres:
        """See the port."""
        if not self._closing and (self._guard is None or self._guard.closed.is_set()):
            with contextlib.suppress(Refused, Unavailable):
                await self._connect_guard()
        seen = await self._observer.look()
        if self._may_tidy and seen.streaming:
            self._may_tidy = False
            # Not waited for, and not in the thread of the files: it may take minutes.
            self._tidying = asyncio.create_task(asyncio.to_thread(self._keep_newest_aside))
        return seen

    def _keep_newest_aside(self) -> None:
        """Once the new data directory has shown that it works, only the newest old one is kept."""
        data = self.config.data_dir
        for old in sorted(data.parent.glob(f"{data.name}.aside-*"))[:-1]:
            shutil.rmtree(old, ignore_errors=True)

    async def probe(self, host: str, port: int) -> Answer:
        """See the port."""
        server = sql.Server(host, port)
        try:
            conn = await sql.connect(
                server,
                self.config.superuser,
                timeout=PROBE_TIMEOUT,
                application_name="pgregent probe",
            )
        except Unavailable as error:
            # It said something: it is alive, whatever it said.
            if "FATAL" in error.reason and "starting up" not in error.reason:
                return Answer.ANSWERED
            ended = any(word in error.reason for word in ("refused", "reset", "closed", "FATAL"))
            return Answer.REFUSED if ended else Answer.SILENT
        await sql.close(conn)
        return Answer.ANSWERED

    # --- starting and stopping -----------------------------------------------------------------

    async def start(
        self,
        label: str,
        names: str,
        upstream: Upstream | None,
        standby: bool,
        deadline: float | None,
    ) -> None:
        """See the port."""
        guard = await self._connect_guard()
        self.config = replace(self.config, config_dir=self._config_dir)
        await self._files(self._prepare_start, label, names, upstream, standby)
        config = self.config
        argv = [str(config.bin_dir / "postgres"), *config.places]
        env = {**wal.tool_environment(), **OOM_ADJUST, "PGDATA": str(config.data_dir)}
        started = await guard.start(
            argv, env=env, cwd=config.data_dir, log_file=config.log_file, deadline=deadline
        )
        self._start = started.start
        self._observer.postmaster = started.pid
        until = time.monotonic() + config.start_timeout
        while not await self._observer.answers():
            with contextlib.suppress(OSError):
                remember_pid_file(config.data_dir, config.state_dir, started.pid)
            if self._observer.postmaster != started.pid:
                # `on_exit` has said so, and what follows from it takes the place of this.
                await asyncio.sleep(5.0)
                raise Unavailable("postgres", f"it ended while it started: see {config.log_file}")
            if time.monotonic() > until:
                raise Unavailable("postgres", f"not started in {config.start_timeout:.0f} s")
            await asyncio.sleep(0.02)
        with contextlib.suppress(OSError):
            remember_pid_file(config.data_dir, config.state_dir, started.pid)

    def _prepare_start(
        self, label: str, names: str, upstream: Upstream | None, standby: bool
    ) -> None:
        config, owner, data = self.config, self.config.owner, self.config.data_dir
        post_bootstrap.refuse_begun(data)
        remove_stale_pid_file(data, config.state_dir)
        self._make_socket_dir()
        render.keep_base(config.conf_dir, data, owner)
        if config.config_dir is not None:
            render.keep_access_files(config.config_dir)
        render.strip_auto_conf(data, owner)
        self._write_static(wal.controldata(config.bin_dir, data) if standby else None)
        self._write_hba(open_to_clients=standby)
        self._write_role(label, names, upstream)
        wal.remove_late_stubs(data)
        for signal_file in ("promote", "promote.signal", "fallback_promote"):
            render.remove_file(data / signal_file)
        render.set_standby_signal(data, standby, owner)

    def _write_static(self, control: wal.ControlData | None = None) -> None:
        """All that only the configuration changes. `control`: of a standby that is to start."""
        config, folder = self.config, self.config.conf_dir
        include = render.BASE_CONF
        if config.custom_conf is not None:
            # A copy, which the parser has seen: a mistake made in it later would keep the server
            # from taking over who it follows, and who confirms its commits.
            include = render.CUSTOM_CONF
            render.write_file(folder / include, config.custom_conf, config.owner)
        parameters = config.all_parameters(config.name)
        if control is not None:
            raise_to_primarys(parameters, control)
        if int((config.data_dir / "PG_VERSION").read_text()) < NO_TRIGGER_FILE:
            parameters["promote_trigger_file"] = ""
        if config.config_dir is not None:
            # pg_rewind recovers what this names.
            parameters["data_directory"] = str(config.data_dir)
        text = render.postgresql_conf(parameters, defaults=DEFAULT_PARAMETERS, include=include)
        render.write_file(config.conf_file, text, config.owner)
        idents = render.lines_conf(config.pg_ident)
        render.write_file(folder / render.IDENT_CONF, idents, config.owner)

    def _write_hba(self, *, open_to_clients: bool) -> None:
        config = self.config
        self._open_to_clients = open_to_clients
        lines = config.pg_hba or DEFAULT_HBA
        if not open_to_clients:
            lines = render.closed_hba(lines, config.superuser.user, self._rewinder.user)
        text = render.lines_conf(lines)
        file = config.conf_dir / render.HBA_CONF
        render.write_file(file, text, config.owner, durably=False)

    def _make_socket_dir(self) -> None:
        config, directory = self.config, self.config.socket_dir
        if config.own_sockets in config.socket_directories:
            directory.mkdir(mode=0o755, exist_ok=True)
            # Nothing runs: what is here was left by a kill, and its pid may be another's by now.
            for left in directory.glob(".s.PGSQL.*"):
                render.remove_file(left)
            if config.owner is not None:
                os.chown(directory, config.owner.uid, config.owner.gid)

    def _write_role(self, label: str, names: str, upstream: Upstream | None) -> None:
        config = self.config
        render.strip_auto_conf(config.data_dir, config.owner)
        if upstream is None:
            config.passfile.unlink(missing_ok=True)
            role = render.Role(synchronous_standby_names=names)
        else:
            entry = render.PassEntry(
                upstream.host,
                str(upstream.port),
                config.replication.user,
                config.replication.password,
            )
            render.write_file(
                config.passfile, render.pass_file([entry]), config.owner, durably=False
            )
            source = render.Upstream(
                upstream.host,
                upstream.port,
                config.replication.user,
                config.passfile,
                label,
                config.replication.options,
            )
            role = render.Role(
                upstream=source,
                slot=slot_name(config.name) if config.use_slots else "",
                synchronous_standby_names=names,
            )
        text = render.role_conf(role)
        file = config.conf_dir / render.ROLE_CONF
        render.write_file(file, text, config.owner, durably=False)

    async def stop(self, immediate: bool) -> None:
        """See the port."""
        guard = await self._connect_guard()
        self._stopping = True
        try:
            if immediate:
                await guard.kill()
            else:
                await self._stop_fast(guard)
        finally:
            self._stopping = False
        self._observer.gone()

    async def _stop_fast(self, guard: Guard) -> None:
        """A fast shutdown that does not wait for an archiver whose command keeps failing."""
        postmaster = self._observer.postmaster
        stopping = asyncio.ensure_future(guard.stop("fast", self.config.stop_timeout))
        try:
            await asyncio.wait({stopping}, timeout=ARCHIVER_PATIENCE)
            while not stopping.done():
                if postmaster is not None:
                    await asyncio.to_thread(self._end_archiver, postmaster)
                await asyncio.wait({stopping}, timeout=ARCHIVER_PATIENCE)
            stopping.result()
        finally:
            stopping.cancel()

    def _end_archiver(self, postmaster: int) -> None:
        """Once the shutdown checkpoint is written, SIGTERM makes the archiver end after the command
        that it is running, instead of trying three times (PostgreSQL's pgarch.c)."""
        with contextlib.suppress(Refused, Unavailable, OSError):
            if wal.controldata(self.config.bin_dir, self.config.data_dir).shut_down:
                title = f"postgres: {self.config.name}: archiver"  # cluster_name is the member's
                for pid in children_titled(postmaster, title.encode()):
                    os.kill(pid, signal.SIGTERM)

    async def set_deadline(self, at: float | None) -> None:
        """See the port."""
        guard = await self._connect_guard()
        if self._observer.postmaster is not None:
            await guard.deadline(self._start, at)

    async def quit(self) -> None:
        """See the port."""
        self._closing = True
        guard = await self._connect_guard()
        await guard.quit()
        await self.close()

    async def close(self) -> None:
        """See the port."""
        self._closing = True
        await self._observer.close()
        if self._guard is not None:
            await self._guard.close()

    def processes(self) -> tuple[int | None, int | None]:
        """See the port."""
        guard = self._guard.pid if self._guard and not self._guard.closed.is_set() else None
        return guard, self._observer.postmaster

    def version(self) -> int | None:
        """Of the server that answered last, as a number (150004); None: none has answered."""
        return self._observer.version

    # --- other parameters ----------------------------------------------------------------------

    async def reconfigure(self, config: ServerConfig) -> None:
        """Use what can be taken of `config` from now on. A server that runs reads its files again;
        what it takes only at a start waits for the next one. Raises Refused, Unavailable."""
        self.config = self.config.changed_to(config)
        if self._observer.postmaster is None or not await self._observer.answers():
            return
        if self._open_to_clients is None:
            async with self._observer.connection() as conn:
                # A primary that an earlier agent started is let in by `admit`, in any case.
                if (await sql.observe(conn, full=False)).in_recovery:
                    self._open_to_clients = True
        await self._files(self._rewrite)
        guard = await self._connect_guard()
        await guard.signal("HUP")

    def _rewrite(self) -> None:
        self._write_static()
        if self._open_to_clients is not None:
            self._write_hba(open_to_clients=self._open_to_clients)

    async def pending_restart(self) -> Mapping[str, tuple[str, str]]:
        """Parameters that wait for a start of the server that runs: name to the value in force and
        the one in its files. Raises Unavailable."""
        if self._observer.postmaster is None:
            return {}
        async with self._observer.connection() as conn:
            return await sql.pending_restart(conn)

    # --- a running standby ---------------------------------------------------------------------

    async def _reconfigure(self, label: str, names: str, upstream: Upstream | None) -> None:
        await self._files(self._write_role, label, names, upstream)
        guard = await self._connect_guard()
        await guard.signal("HUP")

    async def follow(self, label: str, names: str, upstream: Upstream) -> None:
        """See the port."""
        await self._reconfigure(label, names, upstream)

    async def seal(self, round_: int, names: str) -> Sealed:
        """See the port. Without its password file, a walreceiver that recovery still starts with
        the old primary_conninfo cannot get in."""
        await self._reconfigure("", names, None)
        async with self._observer.connection() as conn:
            until = time.monotonic() + SEAL_TIMEOUT
            while time.monotonic() < until:
                if await sql.walreceiver_gone(conn):
                    if not self.config.passwords_needed:
                        # One may still be started with what recovery read last: wait until it
                        # must have read the configuration again.
                        await asyncio.sleep(RELOADED_AFTER)
                        if not await sql.walreceiver_gone(conn):
                            continue
                    position = await self._observer.log_end(conn)
                    if position is not None:
                        newest = wal.newest_history(self.config.data_dir)
                        return Sealed(round_, position, newest)
                await asyncio.sleep(POLL)
        raise Unavailable("postgres", f"its walreceiver has not gone in {SEAL_TIMEOUT:.0f} s")

    async def promote(self, term: int, names: str) -> Promoted:
        """See the port."""
        config = self.config
        newest = wal.newest_history(config.data_dir)
        if newest >= term:
            raise Refused(f"a history file of timeline {newest} exists: term {term} is taken")
        await self._files(wal.ensure_history, config.data_dir, {}, below=term, owner=config.owner)
        await self._reconfigure("", names, None)
        async with self._observer.connection() as conn:
            await self._finish_replay(conn)
            match await sql.promote(conn, timeout=PROMOTE_TIMEOUT):
                case sql.Promoted(timeline):
                    pass
                case sql.PromotionPending():
                    raise Unavailable("postgres", "promotion has not completed")
        history = wal.parse_history(wal.history_files(config.data_dir)[timeline])
        last = history[-1]
        return Promoted(timeline, last.timeline, last.switch_lsn)

    async def _finish_replay(self, conn: sql.Connection) -> None:
        """Sessions that hold replay back are ended; a lower delay setting alone does not do it."""
        until = time.monotonic() + PROMOTE_TIMEOUT
        while time.monotonic() < until:
            status = await sql.observe(conn, full=False)
            if not status.in_recovery or status.replay_lsn >= status.receive_lsn:
                return
            if await self._observer.replay_is_idle(conn):
                return
            await sql.terminate_sessions_blocking_replay(conn)
            await asyncio.sleep(POLL)
        raise Unavailable("postgres", "replay has not finished")

    # --- a running primary ---------------------------------------------------------------------

    async def apply_names(self, names: str, checkpoint: bool, all_walsenders: bool = False) -> None:
        """See the port."""
        await self._reconfigure("", names, None)
        until = time.monotonic() + 5.0
        while True:
            conn = await sql.connect(self._server, self.config.superuser, timeout=2.0)
            try:
                status = await sql.observe(conn, full=False)
                if status.synchronous_standby_names == names:
                    if checkpoint:
                        await sql.checkpoint(conn, timeout=300.0)
                    if all_walsenders:
                        await sql.walsenders_have_reloaded(conn)
                    return
            finally:
                await sql.close(conn)
            if time.monotonic() > until:
                shown = status.synchronous_standby_names
                raise Refused(f"synchronous_standby_names is {shown!r}, not {names!r}")
            await asyncio.sleep(POLL)

    async def admit(self) -> None:
        """See the port."""
        await self._files(partial(self._write_hba, open_to_clients=True))
        before, until = await self._loaded_at(), time.monotonic() + 5.0
        guard = await self._connect_guard()
        await guard.signal("HUP")
        while await self._loaded_at() == before:  # A wall clock, which may be set back.
            if time.monotonic() > until:
                raise Unavailable("postgres", "the postmaster has not read pg_hba.conf again")
            await asyncio.sleep(POLL)

    async def _loaded_at(self) -> float:
        conn = await sql.connect(self._server, self.config.superuser, timeout=2.0)
        try:
            return await sql.loaded_at(conn)
        finally:
            await sql.close(conn)

    async def barrier(self, names: str) -> None:
        """See the port."""
        result = await sql.barrier(
            self._server, self.config.superuser, names=names, timeout=BARRIER_TIMEOUT
        )
        match result:
            case sql.BarrierDone():
                return
            case sql.BarrierWaiting():
                raise Unavailable("postgres", "no standby has acknowledged the barrier")
            case sql.BarrierOtherRule(found):
                raise Unavailable("postgres", f"a new session works under {found!r}")

    async def checkpoint(self) -> None:
        """See the port."""
        conn = await sql.connect(self._server, self.config.superuser, timeout=2.0)
        try:
            await sql.checkpoint(conn, timeout=300.0)
        finally:
            await sql.close(conn)

    async def keep_slots(self, members: tuple[str, ...]) -> None:
        """See the port."""
        config = self.config
        of_members = {slot_name(m) for m in members} if config.use_slots else set[str]()
        wanted = of_members | config.permanent_slots
        async with self._observer.connection() as conn:
            have = {s.name: s for s in await sql.slots(conn)}
            for name in sorted(wanted - set(have)):
                await sql.create_slot(conn, name)
            for name in sorted(wanted & set(have)):
                if have[name].wal_status == "lost" and not have[name].active:
                    await sql.drop_slot(conn, name)
            for name in sorted(set(have) - wanted - config.ignored_slots):
                if not have[name].active and "*" not in config.ignored_slots:
                    await sql.drop_slot(conn, name)

    # --- data directories ----------------------------------------------------------------------

    @property
    def _fresh_dir(self) -> Path:
        return self.config.data_dir.with_name(self.config.data_dir.name + ".new")

    def _make_fresh_dir(self) -> None:
        """Empty and PostgreSQL's own, in a directory that need not be."""
        if self._fresh_dir.exists():
            shutil.rmtree(self._fresh_dir)
        self._fresh_dir.mkdir(mode=0o700)
        if (owner := self.config.owner) is not None:
            os.chown(self._fresh_dir, owner.uid, owner.gid)

    async def initdb(self) -> str:
        """See the port."""
        config = self.config
        self._check_parent()
        await self._files(self._make_fresh_dir)
        pwfile = config.state_dir / "initdb.pw"
        render.write_file(pwfile, config.superuser.password + "\n", config.owner)
        try:
            await tools.initdb(
                config.bin_dir,
                self._fresh_dir,
                superuser=config.superuser.user,
                pwfile=pwfile,
                options=config.initdb,
                owner=config.owner,
            )
        finally:
            render.remove_file(pwfile)
        if config.post_bootstrap:
            post_bootstrap.set_due(self._fresh_dir)
        await self._files(self._swap)
        control = await self._files(wal.controldata, config.bin_dir, config.data_dir)
        return str(control.system_identifier)

    async def ensure_roles(self) -> None:
        """See the port."""
        replication, rewinder = self.config.replication, self._rewinder
        conn = await sql.connect(self._server, self.config.superuser, timeout=5.0)
        try:
            await sql.ensure_role(conn, replication, replication=True)
            if rewinder.user not in (replication.user, self.config.superuser.user):
                await sql.ensure_role(conn, rewinder)
            if rewinder.user != self.config.superuser.user:
                await sql.grant_rewind(conn, rewinder.user)
        finally:
            await sql.close(conn)
        await post_bootstrap.run_if_due(self.config)

    @property
    def _rewinder(self) -> sql.Credentials:
        return self.config.rewind or self.config.superuser

    def _check_parent(self) -> None:
        data = self.config.data_dir
        if os.path.ismount(data):
            raise Refused(
                f"data_dir {data} is a mount point: it cannot be replaced as a whole; "
                f"use a directory below it, such as {data}/data"
            )

    async def rewind(self, source: Upstream) -> None:
        """See the port."""
        config = self.config
        timeline = await self._checkpoint_at(source)
        await self._files(remove_stale_pid_file, config.data_dir, config.state_dir)
        control = await self._files(wal.controldata, config.bin_dir, config.data_dir)
        if control.shut_down and control.min_recovery_end_timeline == timeline:
            # It got onto the source's timeline before it was stopped. Whatever else is done to it
            # appends to a timeline that is not this server's.
            return
        outcome = await tools.rewind(
            config.bin_dir,
            config.data_dir,
            self._tools_upstream(source, self._rewinder),
            config_file=config.conf_file if config.config_dir else None,
            owner=config.owner,
        )
        if isinstance(outcome, tools.Failed):
            raise Refused(outcome.reason)

    async def clone(self, source: Upstream) -> None:
        """See the port."""
        config = self.config
        self._check_parent()
        await self._refuse_tablespaces(source)
        await self._files(self._make_fresh_dir)
        await tools.basebackup(
            config.bin_dir,
            self._fresh_dir,
            self._tools_upstream(source, config.replication),
            options=config.basebackup,
            owner=config.owner,
        )
        await self._files(self._swap)

    def _tools_upstream(self, source: Upstream, role: sql.Credentials) -> render.Upstream:
        config = self.config
        entry = render.PassEntry(source.host, str(source.port), role.user, role.password)
        render.write_file(config.tools_passfile, render.pass_file([entry]), config.owner)
        return render.Upstream(
            source.host,
            source.port,
            role.user,
            config.tools_passfile,
            "pgregent_tools",
            role.options,
        )

    async def _checkpoint_at(self, source: Upstream) -> int:
        """Before it, pg_controldata of a new primary shows the old timeline, and pg_rewind would
        say that no rewind is required. Returns the source's timeline."""
        conn = await sql.connect(
            sql.Server(source.host, source.port), self.config.superuser, timeout=5.0
        )
        try:
            await sql.checkpoint(conn, timeout=300.0)
            return (await sql.observe(conn, full=False)).timeline
        finally:
            await sql.close(conn)

    async def _refuse_tablespaces(self, source: Upstream) -> None:
        conn = await sql.connect(
            sql.Server(source.host, source.port), self.config.superuser, timeout=5.0
        )
        try:
            names = await sql.tablespaces(conn)
        finally:
            await sql.close(conn)
        if names:
            raise Refused(
                f"{source.name} has tablespaces ({', '.join(names)}): cloning them is not "
                "supported; copy this member by hand with pg_basebackup --tablespace-mapping"
            )

    def _swap(self) -> None:
        """Put the complete new directory in place; what was there is set aside."""
        data, fresh = self.config.data_dir, self._fresh_dir
        aside: Path | None = None
        if data.exists() and any(data.iterdir()):
            aside = data.with_name(f"{data.name}.aside-{time.strftime('%Y%m%dT%H%M%S')}")
            data.rename(aside)
        elif data.exists():
            data.rmdir()
        fresh.rename(data)
        render.fsync_dir(data.parent)
        if aside is not None:
            self._may_tidy = True
            # Between the first and this one are clones that have not shown that they work.
            for unproven in sorted(data.parent.glob(f"{data.name}.aside-*"))[1:-1]:
                shutil.rmtree(unproven, ignore_errors=True)
            size = sum(f.lstat().st_size for f in aside.rglob("*") if f.is_file())
            self._on_set_aside(aside, size)
