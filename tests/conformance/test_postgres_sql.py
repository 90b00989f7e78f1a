"""What is asked of running servers, and the handover that it all is for."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Iterator

import pytest

from pgregent.adapters.postgres import render, sql, tools, wal
from pgregent.core.errors import Refused, Unavailable
from tests.conformance.pg import (
    ADMIN,
    SUPERUSER,
    Pg,
    Servers,
    eventually,
    installations,
    servers_of,
    streams,
    system_bin_dir,
)

ANY_1_B = 'ANY 1 ("b")'


@pytest.fixture(scope="module")
def installed() -> Iterator[Servers]:
    with servers_of(system_bin_dir() or tools.find_bin_dir()) as servers:
        yield servers


@pytest.fixture
def servers(installed: Servers) -> Iterator[Servers]:
    yield installed
    installed.close()


async def set_names(pg: Pg, names: str) -> None:
    """Change the rule as it must be done when it was empty before."""
    pg.set_role(render.Role(synchronous_standby_names=names))
    async with pg.session() as conn:
        await sql.reload(conn)
        await sql.checkpoint(conn, timeout=10)


async def barrier_done(pg: Pg, names: str) -> int:
    async def done() -> int:
        result = await sql.barrier(pg.server, ADMIN, names=names, timeout=5)
        return result.lsn if isinstance(result, sql.BarrierDone) else 0

    return await eventually("barrier", done)


@pytest.fixture(scope="module", params=installations(), ids=lambda p: f"pg{p.parent.name}")
def each_installed(request: pytest.FixtureRequest) -> Iterator[Servers]:
    with servers_of(request.param) as servers:
        yield servers


@pytest.fixture
def each(each_installed: Servers) -> Iterator[Servers]:
    yield each_installed
    each_installed.close()


async def test_observe_both_sides(each: Servers) -> None:
    a = await each.primary("a")
    async with a.session() as conn:
        await sql.create_slot(conn, "b")
        await sql.create_slot(conn, "b")
        assert [(s.name, s.active, s.restart_lsn > 0) for s in await sql.slots(conn)] == [
            ("b", False, True)
        ]
    b = await each.standby("b", a, cluster_name="x")
    b.configure(max_connections=101)
    b.set_role(render.Role(upstream=b.upstream(a), slot="b"))
    await b.execute("SELECT pg_reload_conf()")

    async def slot_in_use() -> bool:
        receiver = (await b.status()).walreceiver
        return receiver is not None and (receiver.status, receiver.slot) == ("streaming", "b")

    await eventually("slot in use", slot_in_use)
    await eventually("b streams", lambda: streams(b, a))
    await set_names(a, ANY_1_B)
    lsn = await barrier_done(a, ANY_1_B)
    primary, standby = await a.status(), await b.status()
    assert (primary.in_recovery, standby.in_recovery) == (False, True)
    assert (primary.timeline, standby.timeline) == (1, 1)
    assert primary.system_identifier == standby.system_identifier > 0
    assert primary.version // 10000 == tools.postgres_version(each.bin_dir).major
    assert primary.flush_lsn >= lsn and standby.receive_lsn >= lsn
    assert (primary.receive_lsn, standby.flush_lsn) == (0, 0)
    assert standby.pending_restart == ("cluster_name", "max_connections")
    assert time.time() - 60 < primary.started_at < time.time() + 1
    assert primary.synchronous_standby_names == ANY_1_B
    (sender,) = primary.walsenders
    assert (sender.application_name, sender.user) == ("b", SUPERUSER)
    assert (sender.state, sender.sync_state) == ("streaming", "quorum")
    assert sender.flush_lsn >= lsn
    receiver = standby.walreceiver
    assert receiver is not None
    assert (receiver.sender_port, receiver.received_timeline) == (a.port, 1)
    with pytest.raises(Refused, match="is active"):
        async with a.session() as conn:
            await sql.drop_slot(conn, "b")
    await b.execute("SELECT pg_wal_replay_pause()")
    async with b.session() as conn:
        light = await sql.observe(conn, full=False)
    assert light.replay_paused and light.pending_restart is None


async def test_slots_are_created_and_dropped_once(servers: Servers) -> None:
    a = await servers.primary("a")
    async with a.session() as conn:
        await sql.create_slot(conn, "n")
        await sql.create_slot(conn, "n")
        (slot,) = await sql.slots(conn)
        assert slot.restart_lsn > 0
        await sql.drop_slot(conn, "n")
        await sql.drop_slot(conn, "n")
        assert await sql.slots(conn) == ()
        with pytest.raises(Refused, match="invalid character"):
            await sql.create_slot(conn, "No-Slot")


async def test_application_role_and_database(servers: Servers) -> None:
    a = await servers.primary("a", log_statement="all", log_min_duration_statement=0)
    app = sql.Credentials('a"pp', "s'ecret%\\pa ss")
    assert "ecret" not in repr(app)
    async with a.session() as conn:
        for _ in range(2):
            await sql.ensure_role(conn, app)
            await sql.ensure_database(conn, "a-db", app.user)
    conn = await sql.connect(a.server, app, timeout=5, dbname="a-db", settings={"search_path": "x"})
    await conn.execute("CREATE SCHEMA x CREATE TABLE t (i int)")
    await sql.close(conn)
    rows = await a.execute("SELECT rolsuper, rolreplication FROM pg_roles WHERE rolname = 'a\"pp'")
    assert rows == [(False, False)]
    log = a.log.read_text()
    assert "CREATE DATABASE" in log
    assert "SCRAM" not in log and "ecret" not in log
    wrong = sql.Credentials(app.user, "wrong-word")
    with pytest.raises(Unavailable, match="password authentication failed") as caught:
        await sql.connect(a.server, wrong, timeout=5)
    assert "wrong-word" not in str(caught.value)


async def took(work: Awaitable[object], expected: type[Exception]) -> float:
    began = time.monotonic()
    with pytest.raises(expected):
        await work
    return time.monotonic() - began


async def test_a_frozen_server_is_given_up_in_time(servers: Servers) -> None:
    a = await servers.primary("a")
    async with a.session() as conn, a.session() as other:
        a.signal_all(signal.SIGSTOP)
        assert await took(sql.observe(conn, timeout=0.3), Unavailable) < 0.6
        assert await took(sql.connect(a.server, ADMIN, timeout=0.3), Unavailable) < 0.6
        barrier = sql.barrier(a.server, ADMIN, names="", timeout=0.3)
        assert await took(barrier, Unavailable) < 0.6
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sql.observe(other, timeout=5), 0.3)
        a.signal_all(signal.SIGCONT)
        assert await took(sql.observe(conn), Unavailable) < 0.3
    assert not (await a.status()).in_recovery


async def test_connect_to_nobody_says_so_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable, match="cannot connect to 127"):
        await sql.connect(sql.Server("127.0.0.1", 1), ADMIN, timeout=3)
    assert time.monotonic() - began < 1


async def waiting_barriers(pg: Pg) -> int:
    rows = await pg.execute(
        "SELECT count(*)::int FROM pg_stat_activity"
        " WHERE wait_event = 'SyncRep' AND application_name = 'pgregent barrier'"
    )
    (count,) = rows[0]
    assert isinstance(count, int)
    return count


async def test_barrier(servers: Servers) -> None:
    a = await servers.primary("a")
    b = await servers.standby("b", a)
    stale = await sql.barrier(a.server, ADMIN, names=ANY_1_B, timeout=5)
    assert stale == sql.BarrierOtherRule("")
    await set_names(a, ANY_1_B)
    lsn = await barrier_done(a, ANY_1_B)
    assert (await b.status()).receive_lsn >= lsn

    b.signal_all(signal.SIGSTOP)
    for _ in range(3):
        began = time.monotonic()
        result = await sql.barrier(a.server, ADMIN, names=ANY_1_B, timeout=0.4)
        assert result == sql.BarrierWaiting()
        assert time.monotonic() - began < 0.8
    assert await waiting_barriers(a) == 1  # still in the server, but they do not pile up

    waiting = asyncio.create_task(sql.barrier(a.server, ADMIN, names=ANY_1_B, timeout=10))

    async def cut_short() -> bool:
        await a.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        )
        return waiting.done()

    await eventually("barrier cut short", cut_short)
    with pytest.raises(Unavailable, match="canceling wait for synchronous replication"):
        await waiting

    b.signal_all(signal.SIGCONT)
    assert await barrier_done(a, ANY_1_B) > lsn


async def test_a_walsender_that_has_not_seen_the_reload_is_ended(
    servers: Servers,
) -> None:
    """On the way from ANY 1 to ANY 2, one walsender was stopped before it saw the reload."""
    a = await servers.primary("a")
    standbys = [await servers.standby(name, of=a) for name in ("b@1", "c@1")]
    for each in standbys:
        await eventually(f"{each.name} streams", lambda each=each: streams(each, of=a))
    await set_names(a, 'ANY 1 ("b@1", "c@1")')
    await barrier_done(a, 'ANY 1 ("b@1", "c@1")')

    async with a.session() as conn:
        await sql.walsenders_have_reloaded(conn)
        senders = {w.application_name: w.pid for w in (await sql.observe(conn)).walsenders}
    stale = senders["c@1"]
    os.kill(stale, signal.SIGSTOP)
    try:
        a.set_role(render.Role(synchronous_standby_names='ANY 2 ("b@1", "c@1")'))
        async with a.session() as conn:
            await sql.reload(conn)

        async def seen() -> bool:
            rows = await a.execute("SHOW synchronous_standby_names")
            return str(rows[0][0]).startswith("ANY 2")

        await eventually("the postmaster has the names", seen)
        async with a.session() as conn:
            with pytest.raises(Unavailable, match=f"{stale}"):
                await sql.walsenders_have_reloaded(conn, patience=0.05, timeout=0.5)
    finally:
        os.kill(stale, signal.SIGCONT)
    async with a.session() as conn:
        await sql.walsenders_have_reloaded(conn)
        senders = {w.application_name: w.pid for w in (await sql.observe(conn)).walsenders}
    assert senders.get("c@1") != stale
    await barrier_done(a, 'ANY 2 ("b@1", "c@1")')


async def test_seal(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    a = await servers.primary("a")
    b = await servers.standby("b", a)
    async with b.session() as conn:
        b.set_role(render.Role())
        began = time.monotonic()
        await sql.reload(conn)
        await eventually("sealed", lambda: sql.walreceiver_gone(conn), every=0.001)
        with capsys.disabled():
            print(f"\nwalreceiver gone {1000 * (time.monotonic() - began):.1f} ms after the reload")
        await a.execute("CREATE TABLE t ()")
        assert (await sql.observe(conn)).receive_lsn < (await a.status()).flush_lsn


async def test_without_its_password_file_a_walreceiver_does_not_come_back(
    servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    """So a seal can be proved: none runs now, and none with the old primary_conninfo can begin."""
    a = await servers.primary("a")
    b = await servers.standby("b", a, wal_retrieve_retry_interval="50ms")
    async with b.session() as conn:
        receiver = (await sql.observe(conn)).walreceiver
        assert receiver is not None
        began = time.monotonic()
        render.remove_file(b.passfile)
        os.kill(receiver.pid, signal.SIGTERM)
        await eventually("walreceiver ends", lambda: sql.walreceiver_gone(conn), every=0.001)
        with capsys.disabled():
            print(
                f"\nwalreceiver gone {1000 * (time.monotonic() - began):.1f} ms after its SIGTERM"
            )
        await a.execute("CREATE TABLE t ()")
        log_at = len(b.log.read_text())

        async def refused() -> bool:
            return b.log.read_text()[log_at:].count("no password supplied") >= 1

        await eventually("recovery tried again", refused)
        status, there = await sql.observe(conn), await a.status()
        assert status.walreceiver is None and there.walsenders == ()
        assert status.receive_lsn < there.flush_lsn


async def test_sessions_that_block_replay(servers: Servers) -> None:
    a = await servers.primary("a", autovacuum=False)
    await a.execute("CREATE TABLE t AS SELECT 1 AS i")
    b = await servers.standby("b", a, max_standby_streaming_delay=-1)
    async with b.session() as conn:
        reader = await sql.connect(b.server, ADMIN, timeout=5, application_name="reader")
        idle = await sql.connect(b.server, ADMIN, timeout=5, application_name="reader")
        await reader.set_autocommit(False)
        await reader.execute("LOCK TABLE public.t IN ACCESS SHARE MODE")
        await a.execute("DROP TABLE t")
        target = (await a.status()).flush_lsn

        async def received() -> bool:
            return (await sql.observe(conn)).receive_lsn >= target

        async def replayed() -> bool:
            return (await sql.observe(conn)).replay_lsn >= target

        await eventually("WAL arrives", received)
        assert not await replayed()
        assert await sql.terminate_sessions_blocking_replay(conn) == 1
        await eventually("replay goes on", replayed, timeout=2)
        await idle.execute("SELECT 1")
        for other in (reader, idle):
            await sql.close(other)
    with pytest.raises(Refused, match="is a primary"):
        async with a.session() as conn:
            await sql.terminate_sessions_blocking_replay(conn)


async def seal(pg: Pg) -> None:
    pg.set_role(render.Role())
    async with pg.session() as conn:
        await sql.reload(conn)
        await eventually("sealed", lambda: sql.walreceiver_gone(conn))


async def test_handover_to_term_4_over_stubs(
    each: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Terms 2 and 3 had no primary: timeline 4 descends from 1, and the others follow it."""
    a = await each.primary("a")
    b = await each.standby("b", a)
    c = await each.standby("c", a)
    await set_names(a, 'ANY 1 ("b", "c")')
    await barrier_done(a, 'ANY 1 ("b", "c")')
    await a.execute("CREATE TABLE t AS SELECT 1 AS i")
    a.stop(signal.SIGKILL)

    began = time.monotonic()
    await asyncio.gather(seal(b), seal(c))
    votes = {pg.name: (await pg.status()).receive_lsn for pg in (b, c)}
    winner, follower = (b, c) if votes["b"] >= votes["c"] else (c, b)
    for pg in (b, c):
        assert wal.ensure_history(pg.data_dir, {}, below=4, owner=each.owner) == (2, 3)
    rule = render.quorum_names(1, [follower.name])
    winner.set_role(render.Role(synchronous_standby_names=rule))
    async with winner.session() as conn:
        await sql.reload(conn)
        assert await sql.promote(conn, timeout=10) == sql.Promoted(4)
        with pytest.raises(Refused, match="recovery is not in progress"):
            await sql.promote(conn, timeout=10)
    follower.set_role(render.Role(upstream=follower.upstream(winner)))
    async with follower.session() as conn:
        await sql.reload(conn)
    await barrier_done(winner, rule)
    with capsys.disabled():
        print(f"\nSIGKILL to the successor's barrier: {1000 * (time.monotonic() - began):.0f} ms")
    await eventually("follower streams", lambda: streams(follower, winner))
    history = wal.history_files(winner.data_dir)
    assert [entry.timeline for entry in wal.parse_history(history[4])] == [1]
    assert wal.fork_point(history[4], 1) == votes[winner.name]
    assert wal.history_files(follower.data_dir) == history

    # The control file does not know yet on which timeline a sealed follower's WAL is.
    await seal(follower)
    status = await follower.status()
    assert status.walreceiver is None
    assert wal.wal_timeline_at(follower.data_dir, status.receive_lsn) == 4

    # With a late stub it would not start again; without, it does, and follows.
    wal.ensure_history(follower.data_dir, {}, below=7, owner=each.owner)
    follower.stop()
    assert wal.remove_late_stubs(follower.data_dir) == (5, 6)
    await each.start_standby(follower, winner)
    assert await follower.execute("SELECT i FROM t") == [(1,)]
