"""What a standby's WAL looks like when it is told to rewind and needs none, with real servers.

It held part of a record beyond the fork, so it was judged to have diverged; how far it then came
onto the next timeline until it was stopped is a race. These are its outcomes.
"""

import os
import pwd
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pgregent.adapters.postgres import render, sql, tools, wal
from pgregent.adapters.postgres.layout import ServerConfig
from pgregent.adapters.postgres.server import LocalServer
from pgregent.ports.postgres import Upstream
from tests.conformance import pg as fixture
from tests.conformance.pg import Pg, Servers, eventually, installations, servers_of, streams

MESSAGE = 0x20000
"""Bytes: a walsender sends no more at once, and a walreceiver may be stopped after each."""


@pytest.fixture(params=installations(), ids=lambda p: f"pg{p.parent.name}")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    with servers_of(request.param) as servers:
        yield servers


@dataclass(frozen=True, slots=True)
class Pair:
    """A primary of timeline 2 that has made no checkpoint there yet, and a standby of timeline 1
    which has everything up to the fork and nothing beyond."""

    servers: Servers
    primary: Pg
    standby: Pg
    checkpointer: int
    """The primary's; frozen."""

    def config(self) -> ServerConfig:
        owner = self.servers.owner
        config = ServerConfig(
            name=self.standby.name,
            data_dir=self.standby.data_dir,
            bin_dir=self.servers.bin_dir,
            log_file=self.standby.log,
            listen_host="127.0.0.1",
            port=self.standby.port,
            superuser=fixture.ADMIN,
            replication=fixture.ADMIN,
            owner=owner,
            user=None if owner is None else pwd.getpwuid(owner.uid).pw_name,
        )
        config.state_dir.mkdir(mode=0o711)
        return config

    async def rewind(self) -> None:
        """As the agent does it."""
        os.kill(self.checkpointer, signal.SIGCONT)
        server = LocalServer(self.config(), lambda path, size: None)
        try:
            await server.rewind(Upstream("b", "127.0.0.1", self.primary.port))
        finally:
            await server.close()

    async def rewind_alone(self) -> tools.RewindOutcome:
        """Without a look at the source's timeline first."""
        os.kill(self.checkpointer, signal.SIGCONT)
        async with self.primary.session() as conn:
            await sql.checkpoint(conn, timeout=10)
        source = self.standby.upstream(self.primary)
        data, owner = self.standby.data_dir, self.servers.owner
        return await tools.rewind(self.servers.bin_dir, data, source, owner=owner)

    async def follow(self) -> None:
        """Replay WAL of timeline 2, and stop without a restart point there."""
        await self.servers.start_standby(self.standby, self.primary)
        self.standby.stop()
        control = self.control()
        assert control.state == "shut down in recovery"
        assert (control.timeline, control.min_recovery_end_timeline) == (1, 2)

    def receive_a_part(self) -> str:
        """Leave what a walreceiver leaves that is stopped early in its first segment of
        timeline 2; the rest of a new segment is zeros."""
        new, late = self.primary.data_dir / "pg_wal", self.standby.data_dir / "pg_wal"
        control = self.control()
        number, redo = divmod(control.redo_lsn, wal.SEGMENT_SIZE)
        end = (redo // MESSAGE + 2) * MESSAGE
        recovered = control.min_recovery_end_lsn % wal.SEGMENT_SIZE
        assert redo < end < recovered, "recovery begins before the hole and ends after it"
        name = f"00000002{0:08X}{number:08X}"
        received = (new / name).read_bytes()[:end].ljust(wal.SEGMENT_SIZE, b"\0")
        history = (new / "00000002.history").read_bytes()
        for file, content in ((name, received), ("00000002.history", history)):
            (late / file).write_bytes(content)
            if (owner := self.servers.owner) is not None:
                os.chown(late / file, owner.uid, owner.gid)
        return name

    async def streams_again(self) -> None:
        """Whether a start is all that the standby needs."""
        await self.servers.start_standby(self.standby, self.primary)
        await self.primary.execute("INSERT INTO t VALUES ('later')")
        await eventually("it streams on", lambda: streams(self.standby, self.primary))
        assert await self.standby.execute("SELECT who FROM t") == [("new",), ("later",)]

    def control(self) -> wal.ControlData:
        return wal.controldata(self.servers.bin_dir, self.standby.data_dir)


async def forked(servers: Servers) -> Pair:
    old = await servers.primary("a")
    await old.execute("CREATE TABLE t (who text)")
    new, late = await servers.standby("b", old), await servers.standby("c", old)
    await old.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 1048576))")
    for pg in (new, late):
        await eventually("it has all", lambda pg=pg: streams(pg, old))
    old.stop(signal.SIGKILL)
    for pg in (new, late):
        pg.set_role(render.Role())
        async with pg.session() as conn:
            await sql.reload(conn)
            await eventually("sealed", lambda conn=conn: sql.walreceiver_gone(conn))
    assert (await new.status()).replay_lsn == (await late.status()).replay_lsn
    late.stop()
    rows = await new.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
    checkpointer = rows[0][0]
    assert isinstance(checkpointer, int)
    os.kill(checkpointer, signal.SIGSTOP)
    async with new.session() as conn:
        assert await sql.promote(conn, timeout=10) == sql.Promoted(2)
    await new.execute("INSERT INTO t VALUES ('new')")
    return Pair(servers, new, late, checkpointer)


async def test_a_standby_on_the_timeline_of_its_source_gets_no_records_of_its_own(
    servers: Servers,
) -> None:
    """It would look for its next record where its source wrote something else, for ever."""
    pair = await forked(servers)
    await pair.follow()
    before = pair.control()
    await pair.rewind()
    assert pair.control() == before
    await pair.streams_again()


async def test_a_standby_with_records_of_its_own_on_the_timeline_of_its_source_is_not_used(
    servers: Servers,
) -> None:
    pair = await forked(servers)
    await pair.follow()
    outcome = await pair.rewind_alone()
    assert isinstance(outcome, tools.Failed)
    assert "appended to timeline 2" in outcome.reason


async def test_wal_of_a_timeline_that_was_not_replayed_does_not_hide_its_ancestors(
    servers: Servers,
) -> None:
    """Recovery prefers the newest timeline's segment, and finds a hole where it has to begin."""
    pair = await forked(servers)
    name = pair.receive_a_part()
    await pair.rewind()
    assert (pair.standby.data_dir / "pg_wal" / f"{name}.partial").exists()
    await pair.streams_again()
