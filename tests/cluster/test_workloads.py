"""The workloads against plain PostgreSQL: they survive faults, and see what was planted."""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import psycopg
import pytest

from tests.cluster.checkers import progress, terms
from tests.cluster.faults import frozen
from tests.cluster.plain import PlainCluster, PlainServer
from tests.cluster.processes import send, titled
from tests.cluster.workloads import WORKLOADS, Connect, Workload
from tests.cluster.workloads.client import Client
from tests.cluster.workloads.inserts import Inserts
from tests.cluster.workloads.session import Patience, Session

PLANTED = {
    "inserts": ("DELETE FROM {0.table} WHERE key % 10000000 = 5", "acknowledged and lost"),
    "registers": ("UPDATE {0.table} SET value = 0 WHERE key = 1", "not linearizable"),
    "bank": ("UPDATE {0.accounts} SET balance = balance + 1 WHERE account = 3", "a sum of 801"),
    "appends": ("UPDATE {0.table} SET items = items[2:] WHERE key = 0", "acknowledged and lost"),
}


@pytest.fixture(scope="module")
def server(bin_dir: Path) -> Iterator[PlainServer]:
    """One server that gets up by itself after a crash, and takes its time to commit."""
    with PlainCluster(bin_dir, nodes=1) as cluster:
        (found,) = cluster.servers
        found.configure(restart_after_crash="on", commit_delay="10000", commit_siblings="0")
        with found.connect() as conn:
            conn.execute("SELECT pg_reload_conf()")
        yield found


def to(server: PlainServer) -> Connect:
    return lambda: psycopg.AsyncConnection.connect(server.conninfo)


def workload_on(server: PlainServer, name: str, seed: int = 1) -> Workload:
    return WORKLOADS[name](to(server), to(server), Random(seed), {"n1": to(server)})


async def until(what: str, check: Callable[[], bool], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, f"{what}: not within {timeout:g} s"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def running(*workloads: Workload) -> AsyncGenerator[None]:
    """Everything is at work; at the end all clients stop within their bounds."""
    for workload in workloads:
        await workload.setup()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for workload in workloads:
            group.create_task(workload.run(stop))
        try:
            for workload in workloads:
                await busy(workload)
            yield
        finally:
            stop.set()
            stopped = time.monotonic()
    assert time.monotonic() - stopped < 12.0


async def busy(workload: Workload, count: int = 40) -> None:
    """Wait for `count` more acknowledgements."""
    enough = len(workload.acked_times) + count
    await until(
        f"{enough} acknowledgements", lambda: len(workload.acked_times) >= enough, timeout=30
    )


async def processes(server: PlainServer) -> set[int]:
    """Find them while the clients go on: who waits for us is not in the middle of a COMMIT."""
    return await asyncio.to_thread(server.processes)


async def strike(server: PlainServer) -> None:
    """SIGKILL of one backend: the postmaster ends all sessions and recovers."""
    backends = await asyncio.to_thread(
        lambda: titled(server.processes(), "postgres postgres 127.0.0.1")
    )
    assert backends
    send([min(backends)], signal.SIGKILL)


@pytest.mark.parametrize("name", WORKLOADS)
async def test_crashes_leave_doubts_and_no_violations(server: PlainServer, name: str) -> None:
    workload = workload_on(server, name)
    async with running(workload):
        for _ in range(20):
            await strike(server)
            await busy(workload)
            if workload.unknown:
                break
        healed_at = time.monotonic()
        await busy(workload)
    assert await workload.finish(to(server)) == []
    assert workload.unknown, "20 crashes, and no COMMIT was under way"
    assert any(op.outcome == "fail" for op in workload.history)
    assert progress(workload.acked_times, healed_at) == []
    assert {op.timeline for op in workload.writes if op.outcome == "ok"} == {1}
    assert {op.node for op in workload.writes if op.outcome == "ok"} == {f"127.0.0.1:{server.port}"}


@pytest.mark.parametrize("name", WORKLOADS)
async def test_what_was_planted_is_seen(server: PlainServer, name: str) -> None:
    workload = workload_on(server, name)
    async with running(workload):
        await busy(workload, count=100)
    statement, anomaly = PLANTED[name]
    with server.connect() as conn:
        assert conn.execute(statement.format(workload).encode()).rowcount > 0
    found = await workload.finish(to(server))
    assert any(anomaly in text for text in found), found


async def test_a_frozen_server_holds_nobody_longer_than_the_bounds(server: PlainServer) -> None:
    workload = Inserts(to(server), to(server), Random(1))

    def given_up() -> list[str]:
        return [op.detail for op in workload.attempts if "no answer within" in op.detail]

    async with running(workload):
        for _ in range(10):
            before = len(given_up())
            with frozen(await processes(server)):
                await until("given up", lambda before=before: len(given_up()) >= before + 2)
            await busy(workload)
            if workload.unknown:
                break
    assert await workload.finish(to(server)) == []
    assert workload.unknown, "frozen 10 times, and no COMMIT was under way"
    assert all(op.end - op.start < 12.0 for op in workload.attempts)


async def test_clients_stop_while_the_server_is_frozen(server: PlainServer) -> None:
    workload = workload_on(server, "bank")
    await workload.setup()
    stop = asyncio.Event()
    work = asyncio.ensure_future(workload.run(stop))
    await busy(workload)
    with frozen(await processes(server)):
        stop.set()
        await asyncio.wait_for(work, 12.0)
    assert await workload.finish(to(server)) == []


async def test_clients_can_be_cancelled_while_the_server_is_frozen(server: PlainServer) -> None:
    workload = workload_on(server, "appends")
    await workload.setup()
    work = asyncio.ensure_future(workload.run(asyncio.Event()))
    await busy(workload)
    with frozen(await processes(server)):
        work.cancel()
        assert await asyncio.wait({work}, timeout=3.0) == ({work}, set())
        await until("nothing goes on", lambda: len(asyncio.all_tasks()) == 1, timeout=3)


async def transact(
    server: PlainServer, body: Callable[[Session], Awaitable[None]], answer_s: float = 5.0
) -> str:
    async with Client(to(server), Patience(5.0, answer_s), asyncio.Event()) as client:
        done = await client.transact("SERIALIZABLE", body)
    return f"{done.outcome}: {done.facts['detail']}"


async def test_an_error_before_commit_is_a_failure(server: PlainServer) -> None:
    async def body(session: Session) -> None:
        await session.query("SELECT 1 / 0")

    assert await transact(server, body) == "fail: division by zero"


async def test_what_is_abandoned_ends(server: PlainServer) -> None:
    async def body(session: Session) -> None:
        await session.query("SELECT pg_sleep(20)")

    assert await transact(server, body, answer_s=0.3) == "fail: no answer within 0.3 s"
    assert len(asyncio.all_tasks()) == 1, "the query still waits, on a socket that was closed"


async def test_a_failed_transaction_that_is_committed_all_the_same(server: PlainServer) -> None:
    async def body(session: Session) -> None:
        try:
            await session.query("SELECT 1 / 0")
        except psycopg.errors.DivisionByZero:
            return

    assert await transact(server, body) == "fail: COMMIT was answered by ROLLBACK"


async def test_a_commit_that_was_cancelled_is_in_doubt(server: PlainServer) -> None:
    with server.connect() as conn:
        conn.execute("CREATE TABLE cancelled (x int)")
        conn.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        conn.execute("SELECT pg_reload_conf()")
        conn.execute("CHECKPOINT")

        async def body(session: Session) -> None:
            await session.query("INSERT INTO cancelled VALUES (1)")

        try:
            work = asyncio.ensure_future(transact(server, body))
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            await until("it waits", lambda: bool(conn.execute(waiting).fetchall()))
            conn.execute(f"SELECT pg_cancel_backend(pid) FROM ({waiting}) AS w".encode())
            assert (await work).startswith("unknown: canceling wait for synchronous")
        finally:
            conn.execute("ALTER SYSTEM RESET synchronous_standby_names")
            conn.execute("SELECT pg_reload_conf()")


async def test_two_that_disagree_are_told_apart(server: PlainServer) -> None:
    """The second to commit of a write skew fails for sure, in its COMMIT or before."""
    with server.connect() as conn:
        conn.execute("CREATE TABLE skew (key int PRIMARY KEY, x int)")
        conn.execute("INSERT INTO skew VALUES (1, 0), (2, 0)")
    gate = asyncio.Barrier(2)

    def body(mine: int) -> Callable[[Session], Awaitable[None]]:
        async def run(session: Session) -> None:
            await session.query("SELECT sum(x) FROM skew")
            await gate.wait()
            await session.query("UPDATE skew SET x = 1 WHERE key = %s", mine)
            await gate.wait()

        return run

    told = await asyncio.gather(transact(server, body(1)), transact(server, body(2)))
    assert sorted(text.split(":")[0] for text in told) == ["fail", "ok"]
    assert any("could not serialize access" in text for text in told)


async def test_all_of_them_over_a_failover(bin_dir: Path) -> None:
    with PlainCluster(bin_dir, nodes=2) as cluster:
        first, second = cluster.servers
        primary = first

        async def entry() -> psycopg.AsyncConnection[tuple[object, ...]]:
            return await psycopg.AsyncConnection.connect(primary.conninfo)

        direct = {server.name: to(server) for server in cluster.servers}
        every = [WORKLOADS[n](entry, to(second), Random(n), direct) for n in WORKLOADS]
        async with running(*every):
            first.kill()
            with second.connect() as conn:
                conn.execute("SELECT pg_promote()")
            primary = second
            healed_at = time.monotonic()
            for workload in every:
                await busy(workload)
        for workload in every:
            assert await workload.finish(to(second)) == []
            assert progress(workload.acked_times, healed_at) == []
        assert terms([op for workload in every for op in workload.writes]) == []
        inserts = every[0]
        assert isinstance(inserts, Inserts)
        assert {a.timeline for a in inserts.attempts if a.outcome == "ok"} == {1, 2}
        assert {a.path for a in inserts.attempts if a.timeline == 2} == {"entry", second.name}
        assert any("is a standby" in a.detail for a in inserts.attempts if a.path == second.name)
        assert inserts.seen, "nobody looked at the standby"
