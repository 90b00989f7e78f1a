"""The same scenarios for every DCS, then what only the memory and the local one can show.

Another DCS joins by a context manager in STORES that yields a function making one more client.
"""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from itertools import count, pairwise
from pathlib import Path

import pytest

from pgregent.adapters.dcs.etcd import EtcdDcs, EtcdOptions
from pgregent.adapters.dcs.local import LINE_MAX, WAL_MAX_BYTES, LocalDcs
from pgregent.adapters.dcs.memory import Landing, MemoryDcs, MemoryStore
from pgregent.adapters.dcs.zookeeper import ZookeeperDcs, ZookeeperOptions
from pgregent.core.errors import Refused, Unavailable
from pgregent.ports.dcs import CasConflict, CasDone, CasUnknown, Dcs, Versioned
from tests.conformance import etcd_servers, zookeeper_servers

Connect = Callable[[], Awaitable[Dcs]]
KEY = "/service/demo/pgregent/register"
BOUND_S = 10.0


@asynccontextmanager
async def memory_store(tmp_path: Path) -> AsyncGenerator[Connect]:
    store = MemoryStore()

    async def connect() -> Dcs:
        return MemoryDcs(store)

    yield connect


@asynccontextmanager
async def local_store(tmp_path: Path) -> AsyncGenerator[Connect]:
    async def connect() -> Dcs:
        return await LocalDcs.open(tmp_path / "dcs.sqlite")

    yield connect


@asynccontextmanager
async def zookeeper_store(tmp_path: Path) -> AsyncGenerator[Connect]:
    server = zookeeper_servers.shared()
    numbers = count()

    async def connect() -> Dcs:
        options = ZookeeperOptions(hosts=(server.host,))
        return await ZookeeperDcs.open(options, f"node{next(numbers)}")

    yield connect


@asynccontextmanager
async def etcd_store(tmp_path: Path) -> AsyncGenerator[Connect]:
    server = etcd_servers.shared()
    numbers = count()

    async def connect() -> Dcs:
        return await EtcdDcs.open(EtcdOptions(hosts=(server.host,)), f"node{next(numbers)}")

    yield connect


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Connect]]] = {
    "memory": memory_store,
    "local": local_store,
    "zookeeper": zookeeper_store,
    "etcd": etcd_store,
}


@pytest.fixture(params=sorted(STORES))
async def connect(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Connect]:
    clients: list[Dcs] = []
    async with STORES[request.param](tmp_path) as connect_one:

        async def connect_and_keep() -> Dcs:
            clients.append(await connect_one())
            return clients[-1]

        yield connect_and_keep
        for client in clients:
            await client.close()


async def next_of(changes: AsyncIterator[None]) -> None:
    async with asyncio.timeout(BOUND_S):
        await anext(changes)


async def must(dcs: Dcs, key: str, expected_version: int, value: bytes) -> int:
    result = await dcs.cas(key, expected_version, value)
    assert isinstance(result, CasDone), result
    return result.version


# --- every DCS ---


async def test_nothing_is_under_an_unknown_prefix(connect: Connect) -> None:
    assert await (await connect()).read("/service/demo") == {}


async def test_cas_creates_once_then_needs_the_version(connect: Connect) -> None:
    dcs = await connect()
    first = await must(dcs, KEY, 0, b"one")
    assert first >= 1
    assert await dcs.cas(KEY, 0, b"again") == CasConflict()
    second = await must(dcs, KEY, first, b"two")
    assert second > first
    assert await dcs.cas(KEY, first, b"late") == CasConflict()
    assert await dcs.read(KEY) == {KEY: Versioned(b"two", second)}


async def test_cas_of_an_absent_key_with_a_version_conflicts(connect: Connect) -> None:
    dcs = await connect()
    assert await dcs.cas(KEY, 7, b"x") == CasConflict()
    assert await dcs.read(KEY) == {}


async def test_a_prefix_is_a_path_not_a_string(connect: Connect) -> None:
    dcs = await connect()
    for key in ("/s/a", "/s/a/1", "/s/a/1/deep", "/s/ab/1", "/s/a-b", "/s/b"):
        await must(dcs, key, 0, key.encode())
    assert set(await dcs.read("/s/a")) == {"/s/a", "/s/a/1", "/s/a/1/deep"}
    assert set(await dcs.read("/s/a/")) >= {"/s/a/1", "/s/a/1/deep"}
    assert not set(await dcs.read("/s/a/")) & {"/s/ab/1", "/s/a-b", "/s/b"}
    assert len(await dcs.read("/s")) == 6


@pytest.mark.parametrize("value", [b"", bytes(range(256)), os.urandom(100_000)], ids=len)
async def test_values_are_any_bytes(connect: Connect, value: bytes) -> None:
    dcs = await connect()
    version = await must(dcs, KEY, 0, value)
    assert await dcs.read(KEY) == {KEY: Versioned(value, version)}


async def test_put_is_unconditional_and_moves_the_version(connect: Connect) -> None:
    dcs, other = await connect(), await connect()
    await dcs.put(KEY, b"one")
    first = (await other.read(KEY))[KEY]
    await other.put(KEY, b"two")
    second = (await dcs.read(KEY))[KEY]
    assert (first.value, second.value) == (b"one", b"two")
    assert second.version > first.version
    assert await dcs.cas(KEY, first.version, b"three") == CasConflict()
    await must(dcs, KEY, second.version, b"three")


async def test_every_success_is_the_next_link_of_one_chain(connect: Connect) -> None:
    links: list[tuple[int, int]] = []

    async def append(dcs: Dcs, count: int) -> None:
        while count:
            entry = (await dcs.read(KEY)).get(KEY, Versioned(b"0", 0))
            result = await dcs.cas(KEY, entry.version, b"%d" % (int(entry.value) + 1))
            if isinstance(result, CasDone):
                links.append((entry.version, result.version))
                count -= 1

    clients = [await connect() for _ in range(3)]
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for client in clients * 2:
            group.create_task(append(client, 10))
    assert_chain(links)
    assert (await clients[0].read(KEY))[KEY] == Versioned(b"60", max(new for _, new in links))


def assert_chain(links: list[tuple[int, int]]) -> None:
    links.sort()
    assert links[0][0] == 0
    for (_, new), (old, _) in pairwise(links):
        assert old == new


async def test_watch_yields_at_the_start_and_after_changes_of_anybody(connect: Connect) -> None:
    dcs, other = await connect(), await connect()
    await dcs.put(KEY, b"before")
    changes = dcs.watch("/service/demo")
    await next_of(changes)
    for writer in (other, dcs, other):
        waiting = asyncio.ensure_future(next_of(changes))
        await writer.put(KEY, b"x")
        await waiting


async def test_watch_is_not_woken_by_other_prefixes(connect: Connect) -> None:
    dcs, other = await connect(), await connect()
    ours, theirs = dcs.watch("/service/demo"), dcs.watch("/service/demo2")
    await next_of(ours)
    await next_of(theirs)
    waiting = asyncio.ensure_future(next_of(ours))
    for writer in (other, dcs):
        seen = asyncio.ensure_future(next_of(theirs))
        await writer.put("/service/demo2/x", b"x")
        await seen
        assert not waiting.done()
    await other.put("/service/demo/x", b"x")
    await waiting


async def test_no_change_is_missed_however_watch_and_write_interleave(connect: Connect) -> None:
    dcs, other = await connect(), await connect()
    target = 100

    async def write() -> None:
        for i in range(1, target + 1):
            await other.put(KEY, b"%d" % i)

    writing = asyncio.ensure_future(write())
    async with asyncio.timeout(BOUND_S):
        async for _ in dcs.watch("/service/demo"):
            entry = (await dcs.read(KEY)).get(KEY)
            if entry and int(entry.value) == target:
                break
    await writing


async def test_close_ends_watches_and_refuses_calls(connect: Connect) -> None:
    dcs = await connect()
    changes = dcs.watch("/")
    await next_of(changes)
    waiting = asyncio.ensure_future(next_of(changes))
    await dcs.close()
    with pytest.raises(StopAsyncIteration):
        await waiting
    with pytest.raises(Unavailable):
        await dcs.read("/")
    with pytest.raises(Unavailable):
        await dcs.cas(KEY, 0, b"x")


# --- memory: faults on command ---


@pytest.mark.parametrize("landing", list(Landing))
async def test_memory_loses_the_reply_of_the_next_cas(landing: Landing) -> None:
    store = MemoryStore()
    dcs, other = MemoryDcs(store), MemoryDcs(store)
    dcs.lose_next_reply(landing)
    assert isinstance(await dcs.cas(KEY, 0, b"lost"), CasUnknown)
    assert (KEY in await other.read(KEY)) == (landing is Landing.NOW)
    landed = dcs.land()
    assert (KEY in await other.read(KEY)) == (landing is not Landing.NEVER)
    assert len(landed) == (landing is Landing.LATER)
    assert isinstance(await other.cas("/other", 0, b"x"), CasDone)


async def test_memory_late_cas_is_settled_by_a_later_successful_one() -> None:
    dcs = MemoryDcs()
    dcs.lose_next_reply(Landing.LATER)
    await dcs.cas(KEY, 0, b"lost")
    await must(dcs, KEY, 0, b"mine")
    assert dcs.land() == [CasConflict()]
    assert (await dcs.read(KEY))[KEY].value == b"mine"


async def test_memory_unavailable_for_one_client_and_back() -> None:
    store = MemoryStore()
    dcs, other = MemoryDcs(store), MemoryDcs(store)
    changes = dcs.watch("/")
    await next_of(changes)
    waiting = asyncio.ensure_future(next_of(changes))
    dcs.set_unavailable()
    for call in (dcs.read("/"), dcs.cas(KEY, 0, b"x"), dcs.put(KEY, b"x")):
        with pytest.raises(Unavailable):
            await call
    assert await other.read("/") == {}
    assert not waiting.done()
    dcs.set_unavailable(False)
    await waiting
    await must(dcs, KEY, 0, b"x")


async def test_memory_freeze_leaves_writes_in_flight_until_the_thaw() -> None:
    store = MemoryStore()
    dcs, other = MemoryDcs(store, timeout_s=0.05), MemoryDcs(store)
    dcs.freeze()
    with pytest.raises(Unavailable):
        await dcs.read("/")
    assert isinstance(await dcs.cas(KEY, 0, b"x"), CasUnknown)
    assert await other.read("/") == {}
    dcs.thaw()
    assert (await other.read(KEY))[KEY].value == b"x"


async def test_memory_comes_back_older_or_empty() -> None:
    store = MemoryStore()
    dcs = MemoryDcs(store)
    version = await must(dcs, KEY, 0, b"old")
    past = store.snapshot()
    await must(dcs, KEY, version, b"new")
    changes = dcs.watch("/")
    await next_of(changes)
    store.restore(past)
    await next_of(changes)
    assert await dcs.read("/") == {KEY: Versioned(b"old", version)}
    store.restore()
    assert await dcs.read("/") == {}


# --- local: a file, and processes that die or hang around it ---

INCREMENT = """
import asyncio, os, sys
from pathlib import Path
from pgregent.adapters.dcs.local import LocalDcs
from pgregent.ports.dcs import CasConflict, CasDone, Versioned

async def main(path, key, count):
    dcs = await LocalDcs.open(Path(path))
    while count:
        entry = (await dcs.read(key)).get(key, Versioned(b"0", 0))
        value = int(entry.value) + 1
        os.write(1, b"try %d\\n" % value)
        match await dcs.cas(key, entry.version, b"%d" % value):
            case CasDone(version):
                os.write(1, b"done %d %d %d\\n" % (value, entry.version, version))
                count -= 1
            case CasConflict():
                os.write(1, b"conflict\\n")
            case unknown:
                os.write(1, b"unknown\\n")
    await dcs.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""

HOLD_WRITE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("INSERT INTO entries (key, value) VALUES ('/held', x'00')")
print("held", flush=True)
sys.stdin.read()
"""

FULL_DISK = """
import asyncio, os, resource, sys
from pathlib import Path
from pgregent.adapters.dcs.local import LocalDcs
from pgregent.core.errors import Unavailable
from pgregent.ports.dcs import CasDone, CasUnknown

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main(path):
    dcs = await LocalDcs.open(Path(path))
    assert isinstance(await dcs.cas("/k", 0, b"1"), CasDone)
    entry = (await dcs.read("/k"))["/k"]
    limit(os.stat(path + "-wal").st_size)
    for _ in range(3):
        result = await dcs.cas("/k", entry.version, b"2")
        assert isinstance(result, CasUnknown), result
        assert await dcs.read("/k") == {"/k": entry}
    for call in (dcs.cas("/k", entry.version, bytes(16 << 20)), dcs.put("/k", b"2")):
        try:
            print(await call)
            raise SystemExit("stored on a full disk")
        except Unavailable as error:
            print(error)
    limit(resource.RLIM_INFINITY)
    assert isinstance(await dcs.cas("/k", entry.version, b"3"), CasDone)
    await dcs.close()

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dcs.sqlite"


@pytest.fixture
async def local(path: Path) -> AsyncIterator[LocalDcs]:
    dcs = await LocalDcs.open(path)
    yield dcs
    await dcs.close()


@contextmanager
def child(
    code: str, *args: object, output: Path | None = None
) -> Generator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", code, *map(str, args)]
    stdout = output.open("wb") if output else subprocess.PIPE
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        if not isinstance(stdout, int):
            stdout.close()


@contextmanager
def held_write_lock(path: Path) -> Generator[subprocess.Popen[bytes]]:
    with child(HOLD_WRITE_LOCK, path) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        yield process


@asynccontextmanager
async def event_loop_stays_free(bound_s: float = 0.5) -> AsyncGenerator[None]:
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    beating = asyncio.create_task(beat())
    yield
    beating.cancel()
    assert longest < bound_s


@contextmanager
def takes_at_most(seconds: float) -> Generator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start <= seconds


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def cas_once_free(dcs: LocalDcs, key: str, expected_version: int, value: bytes) -> None:
    deadline = time.monotonic() + BOUND_S
    while time.monotonic() < deadline:
        try:
            assert isinstance(await dcs.cas(key, expected_version, value), CasDone)
            return
        except Unavailable:
            await asyncio.sleep(0.02)
    raise AssertionError("the file did not become usable again")


async def test_local_file_is_private(local: LocalDcs, path: Path) -> None:
    await must(local, KEY, 0, b"x")
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file
    assert {f.name for f in path.parent.iterdir()} == {
        "dcs.sqlite",
        "dcs.sqlite-wal",
        "dcs.sqlite-shm",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_local_file_belongs_to_the_owner_of_the_directory(path: Path) -> None:
    os.chown(path.parent, 65534, 65534)
    dcs = await LocalDcs.open(path)
    await must(dcs, KEY, 0, b"x")
    assert {f.stat().st_uid for f in path.parent.iterdir()} == {65534}
    await dcs.close()


async def test_local_keeps_everything_when_all_close(path: Path) -> None:
    dcs = await LocalDcs.open(path)
    version = await must(dcs, KEY, 0, b"x")
    await dcs.close()
    dcs = await LocalDcs.open(path)
    assert await dcs.read("/") == {KEY: Versioned(b"x", version)}
    await dcs.close()


def make_text(path: Path) -> None:
    path.write_text("not a database, but long enough to have a header of its own\n" * 20)


def make_empty(path: Path) -> None:
    path.touch()


def make_directory(path: Path) -> None:
    path.mkdir()


def make_foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA user_version = 1; CREATE TABLE entries (x);")
    connection.close()


def make_other_format(path: Path) -> None:
    asyncio.run(open_and_close(path))
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def make_log_alone(path: Path) -> None:
    Path(f"{path}-wal").write_bytes(b"an old log")


async def open_and_close(path: Path) -> None:
    await (await LocalDcs.open(path)).close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_text, "not a DCS file"),
        (make_empty, "not a DCS file"),
        (make_directory, "not a file"),
        (make_foreign, "not a DCS file"),
        (make_other_format, "has format 99"),
        (make_log_alone, "without dcs.sqlite"),
    ],
)
def test_local_refuses_what_is_not_its_own(
    path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(path)
    before = {f.name: f.read_bytes() for f in path.parent.iterdir() if f.is_file()}
    with pytest.raises(Refused, match=message) as caught:
        asyncio.run(open_and_close(path))
    assert str(path) in str(caught.value)
    assert {f.name: f.read_bytes() for f in path.parent.iterdir() if f.is_file()} == before


async def test_local_refuses_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no-such-directory"):
        await LocalDcs.open(tmp_path / "no-such-directory" / "dcs.sqlite")


async def test_local_versions_do_not_go_back_after_a_delete(local: LocalDcs, path: Path) -> None:
    version = await must(local, KEY, 0, b"x")
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("DELETE FROM entries")
    connection.close()
    assert await must(local, KEY, 0, b"y") > version


async def test_local_chain_over_processes_that_create_the_file_together(path: Path) -> None:
    outputs = [path.with_name(f"out{i}") for i in range(3)]
    with (
        child(INCREMENT, path, KEY, 40, output=outputs[0]) as one,
        child(INCREMENT, path, KEY, 40, output=outputs[1]) as two,
        child(INCREMENT, path, KEY, 40, output=outputs[2]) as three,
    ):
        for process in (one, two, three):
            assert await asyncio.to_thread(process.wait, 30) == 0
    done = [line.split() for file in outputs for line in file.read_text().splitlines()]
    links = [(int(w[2]), int(w[3])) for w in done if w[0] == "done"]
    assert len(links) == 120
    assert_chain(links)


async def test_local_survives_sigkill_at_any_moment(path: Path) -> None:
    await open_and_close(path)
    tape = random.Random(20)
    acknowledged: list[int] = []
    unknown: list[int] = []

    async def live_and_die(name: str) -> None:
        output = path.with_name(name)
        with child(INCREMENT, path, KEY, -1, output=output) as process:
            await wait_until(lambda: b"done" in output.read_bytes())
            await asyncio.sleep(tape.random() * 0.06)
            process.kill()
        lines = [line.split() for line in output.read_text().splitlines()]
        assert ["unknown"] not in lines
        acknowledged.extend(int(line[1]) for line in lines if line[0] == "done")
        if lines[-1][0] == "try":
            unknown.append(int(lines[-1][1]))

    async def slot(number: int) -> None:
        for life in range(5):
            await live_and_die(f"{number}-{life}")

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(slot(number))
    dcs = await LocalDcs.open(path)
    entry = (await dcs.read(KEY))[KEY]
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(acknowledged) <= set(range(1, int(entry.value) + 1))
    assert set(range(1, int(entry.value) + 1)) - set(acknowledged) <= set(unknown)
    await must(dcs, KEY, entry.version, b"usable")
    await dcs.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


@pytest.mark.parametrize("stopped", [False, True], ids=["waiting", "SIGSTOP"])
async def test_local_write_lock_held_elsewhere(local: LocalDcs, path: Path, stopped: bool) -> None:
    version = await must(local, KEY, 0, b"x")
    with held_write_lock(path) as holder:
        if stopped:
            holder.send_signal(signal.SIGSTOP)
        async with event_loop_stays_free():
            with takes_at_most(1.5), pytest.raises(Unavailable, match="locked"):
                await local.cas(KEY, version, b"y")
            with takes_at_most(1.5), pytest.raises(Unavailable, match="locked"):
                await local.put(KEY, b"y")
            with takes_at_most(0.5):
                assert (await local.read(KEY))[KEY].version == version
    await cas_once_free(local, KEY, version, b"z")


async def test_local_line_of_callers_is_bounded(local: LocalDcs, path: Path) -> None:
    with held_write_lock(path), takes_at_most(1.8):
        async with event_loop_stays_free():
            calls = [local.cas(f"/k{i}", 0, b"x") for i in range(10 * LINE_MAX)]
            results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    at_once = [result for result in results if "are waiting already" in str(result)]
    assert len(at_once) >= 8 * LINE_MAX
    await cas_once_free(local, KEY, 0, b"z")
    assert set(await local.read("/")) == {KEY}


@contextmanager
def everything_locked(path: Path) -> Generator[None]:
    """Hold every lock of the log's index: not even reading works."""
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+b');"
        "fcntl.lockf(f, fcntl.LOCK_EX, 8, 120); print('held', flush=True); sys.stdin.read()"
    )
    with child(code, f"{path}-shm") as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        yield


async def test_local_everything_locked(local: LocalDcs, path: Path) -> None:
    version = await must(local, KEY, 0, b"x")
    changes = local.watch("/")
    await next_of(changes)
    with everything_locked(path):
        async with event_loop_stays_free():
            with takes_at_most(1.5):
                read, cas = await asyncio.gather(
                    local.read("/"), local.cas(KEY, version, b"y"), return_exceptions=True
                )
        assert isinstance(read, Unavailable)
        assert isinstance(cas, Unavailable | CasUnknown)
    await next_of(changes)
    assert await local.read("/") == {KEY: Versioned(b"x", version)}
    await cas_once_free(local, KEY, version, b"z")


async def test_local_full_disk(path: Path) -> None:
    with child(FULL_DISK, path) as process:
        assert await asyncio.to_thread(process.wait, 20) == 0
    dcs = await LocalDcs.open(path)
    assert (await dcs.read("/k"))["/k"].value == b"3"
    await dcs.close()


async def test_local_log_does_not_grow_for_ever(local: LocalDcs, path: Path) -> None:
    other = await LocalDcs.open(path)
    log = Path(f"{path}-wal")
    largest = 0
    for i in range(40):
        await (local, other)[i % 2].put(f"/k{i % 3}", bytes(400_000))
        largest = max(largest, log.stat().st_size)
    assert largest < 2 * WAL_MAX_BYTES
    assert {len(v.value) for v in (await local.read("/")).values()} == {400_000}
    await other.close()


async def test_local_changes_of_another_process_are_seen_soon(local: LocalDcs, path: Path) -> None:
    code = INCREMENT.replace('os.write(1, b"try %d\\n" % value)', "sys.stdin.readline()").replace(
        'os.write(1, b"done %d %d %d\\n" % (value, entry.version, version))',
        'import time; os.write(1, b"%.9f\\n" % time.monotonic())',
    )
    changes = local.watch("/service")
    await next_of(changes)
    delays: list[float] = []
    with child(code, path, KEY, 20) as process:
        assert process.stdin
        assert process.stdout
        for _ in range(20):
            process.stdin.write(b"\n")
            process.stdin.flush()
            await next_of(changes)
            seen_at = time.monotonic()
            delays.append(seen_at - float(process.stdout.readline()))
    assert statistics.median(delays) < 0.05, delays


async def test_local_own_changes_are_seen_at_once(local: LocalDcs) -> None:
    changes = local.watch("/service")
    await next_of(changes)
    delays: list[float] = []
    for i in range(10):
        await local.put(KEY, b"%d" % i)
        before = time.monotonic()
        await next_of(changes)
        delays.append(time.monotonic() - before)
    assert statistics.median(delays) < 0.005, delays


async def test_local_idle_watch_costs_next_to_nothing(local: LocalDcs) -> None:
    changes = local.watch("/")
    await next_of(changes)
    waiting = asyncio.ensure_future(next_of(changes))
    before = time.process_time()
    await asyncio.sleep(1.0)
    # About 0.003 is usual; the bound leaves room for a slow machine.
    assert time.process_time() - before < 0.02
    assert not waiting.done()
    waiting.cancel()


async def test_local_replaced_file_is_noticed(local: LocalDcs, path: Path, tmp_path: Path) -> None:
    await must(local, KEY, 0, b"old")
    changes = local.watch("/")
    await next_of(changes)
    aside = tmp_path / "aside"
    aside.mkdir()
    for file in path.parent.glob("dcs.sqlite*"):
        shutil.move(file, aside)
    with pytest.raises(Unavailable):
        await local.read("/")
    with pytest.raises(Unavailable):
        await local.cas(KEY, 1, b"lost")
    other = await LocalDcs.open(path)
    await next_of(changes)
    assert await local.read("/") == {}
    await must(local, KEY, 0, b"new")
    assert (await other.read(KEY))[KEY].value == b"new"
    await other.close()


async def test_local_file_replaced_in_one_step(local: LocalDcs, path: Path) -> None:
    newer = path.with_name("newer.sqlite")
    other = await LocalDcs.open(newer)
    await must(other, KEY, 0, b"new")
    await other.close()
    # Two connections that end at once may each leave it to the other.
    with closing(sqlite3.connect(newer)) as last:
        last.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    changes = local.watch("/")
    await next_of(changes)
    other = await LocalDcs.open(path)
    await must(other, KEY, 0, b"old")
    await next_of(changes)
    await other.close()
    for suffix in ("-wal", "-shm"):
        os.rename(f"{path}{suffix}", f"{path}.aside{suffix}")
    os.replace(newer, path)
    assert (await local.read(KEY))[KEY].value == b"new"
    await next_of(changes)
