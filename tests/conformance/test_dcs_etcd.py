"""What only a real etcd can show: lost replies, dead, frozen and parted members, amnesia,
compaction, silent watches, TLS, passwords.

The scenarios that every DCS must pass run against it in test_dcs.py.
"""

import asyncio
import logging
import ssl
import subprocess
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pgregent.adapters.dcs.etcd import CALLS_MAX, EtcdDcs, EtcdOptions
from pgregent.adapters.dcs.etcd_link import CALL_TIMEOUT_S, CONNECT_TIMEOUT_S
from pgregent.adapters.dcs.etcd_watch import PULSE_S
from pgregent.agent.connect import open_dcs
from pgregent.config.load import check_config
from pgregent.core.errors import Refused, Unavailable
from pgregent.ports.dcs import CasConflict, CasDone, CasUnknown, Versioned
from tests.config.test_etcd import LOCAL
from tests.config.test_load import MINIMAL
from tests.conformance import etcd_servers
from tests.conformance.etcd_servers import EtcdServer, Peers, delete_below, put, text
from tests.conformance.zookeeper_servers import free_port

PREFIX = "/service/demo/pgregent"
KEY = f"{PREFIX}/register"
BOUND_S = 15.0
CALL_BOUND_S = CALL_TIMEOUT_S + 0.3
SILENCE_BOUND_S = 2 * PULSE_S + CALL_TIMEOUT_S + CONNECT_TIMEOUT_S + 1.0
PASSWORD = "s3cret-w0rd"


@pytest.fixture
def server() -> Iterator[EtcdServer]:
    with etcd_servers.running() as server:
        yield server


@asynccontextmanager
async def client(*hosts: str, name: str = "node1", **options: object) -> AsyncGenerator[EtcdDcs]:
    dcs = await EtcdDcs.open(EtcdOptions(hosts=hosts, **options), name)  # pyright: ignore
    try:
        yield dcs
    finally:
        await dcs.close()


async def next_of(changes: AsyncIterator[None], bound_s: float = BOUND_S) -> None:
    async with asyncio.timeout(bound_s):
        await anext(changes)


async def must(dcs: EtcdDcs, key: str, expected_version: int, value: bytes) -> int:
    result = await dcs.cas(key, expected_version, value)
    assert isinstance(result, CasDone), result
    return result.version


async def once_available(read: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(BOUND_S):
        while True:
            with suppress(Unavailable):
                await read()
                return
            await asyncio.sleep(0.02)


async def shown(dcs: EtcdDcs) -> bytes:
    """Return the key's value, as soon as it can be read: members may elect a leader meanwhile."""
    found: list[bytes] = []

    async def read() -> None:
        found.append((await dcs.read(PREFIX))[KEY].value)

    await once_available(read)
    return found[0]


async def settle(dcs: EtcdDcs, value: bytes) -> None:
    """Succeed with a CAS, which settles the earlier ones."""

    async def write() -> None:
        version = (await dcs.read(PREFIX))[KEY].version
        if not isinstance(await dcs.cas(KEY, version, value), CasDone):
            raise Unavailable("dcs", "not settled")

    await once_available(write)


async def until(condition: Callable[[], bool], timeout_s: float = 25.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def bounded_without_blocking(seconds: float = CALL_BOUND_S) -> AsyncGenerator[None]:
    """What happens within ends in time, and the event loop stays free meanwhile."""
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    beating = asyncio.create_task(beat())
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    beating.cancel()
    assert took <= seconds
    assert longest < 0.3


# --- faults ---


Strike = Callable[[EtcdServer, list[EtcdServer], Peers], AbstractContextManager[None]]


@contextmanager
def killed(leader: EtcdServer, others: list[EtcdServer], peers: Peers) -> Generator[None]:
    leader.kill()
    yield


@contextmanager
def frozen(leader: EtcdServer, others: list[EtcdServer], peers: Peers) -> Generator[None]:
    with leader.frozen():
        yield


@contextmanager
def parted(leader: EtcdServer, others: list[EtcdServer], peers: Peers) -> Generator[None]:
    peers.part(leader.name, [server.name for server in others])
    yield


# --- away and back ---


async def test_open_without_a_server_then_it_comes(tmp_path: Path) -> None:
    etcd_servers.skip_if_missing()
    server = EtcdServer(tmp_path / "etcd")
    async with bounded_without_blocking():
        dcs = await EtcdDcs.open(EtcdOptions(hosts=(server.host,)), "node1")
    changes = dcs.watch(PREFIX)
    await next_of(changes)
    with pytest.raises(Unavailable, match=f"{server.host}: .*refused"):
        await dcs.read(PREFIX)
    with pytest.raises(Unavailable):
        await dcs.cas(KEY, 0, b"x")
    try:
        server.start()
        await next_of(changes)
        await must(dcs, KEY, 0, b"x")
    finally:
        await dcs.close()
        server.kill()


async def test_stopped_and_started_again_with_its_data(server: EtcdServer) -> None:
    async with client(server.host) as dcs:
        version = await must(dcs, KEY, 0, b"x")
        changes = dcs.watch(PREFIX)
        await next_of(changes)
        server.kill()
        for call in (dcs.read(PREFIX), dcs.put(KEY, b"y"), dcs.cas(KEY, version, b"y")):
            async with bounded_without_blocking():
                with pytest.raises(Unavailable):
                    assert isinstance(await call, CasUnknown)
                    raise Unavailable("dcs", "unknown is right too while the loss is news")
        waiting = asyncio.ensure_future(next_of(changes))
        server.start()
        await waiting
        assert await dcs.read(PREFIX) == {KEY: Versioned(b"x", version)}
        await must(dcs, KEY, version, b"y")


async def test_frozen_and_thawed(server: EtcdServer) -> None:
    async with client(server.host) as dcs:
        version = await must(dcs, KEY, 0, b"x")
        changes = dcs.watch(PREFIX)
        await next_of(changes)
        with server.frozen():
            async with bounded_without_blocking():
                read, stored, cas = await asyncio.gather(
                    dcs.read(PREFIX),
                    dcs.put(f"{PREFIX}/members/a", b"a"),
                    dcs.cas(KEY, version, b"y"),
                    return_exceptions=True,
                )
            assert isinstance(read, Unavailable)
            assert isinstance(stored, Unavailable)
            assert isinstance(cas, CasUnknown)
            async with bounded_without_blocking(0.2):
                with pytest.raises(Unavailable, match="no answer"):
                    await dcs.cas(KEY, version, b"z")
        await next_of(changes)
        await once_available(lambda: dcs.read(PREFIX))
        # Whether the one in flight lands is open: etcd drops what nobody waits for, if it can.
        assert (await dcs.read(PREFIX))[KEY].value in (b"x", b"y")


async def test_close_does_not_wait_for_a_frozen_server(server: EtcdServer) -> None:
    dcs = await EtcdDcs.open(EtcdOptions(hosts=(server.host,)), "node1")
    with server.frozen():
        reading = asyncio.ensure_future(dcs.read(PREFIX))
        await asyncio.sleep(0)
        async with bounded_without_blocking(0.5):
            await dcs.close()
            with pytest.raises(Unavailable):
                await reading


async def test_line_of_callers_is_bounded(server: EtcdServer) -> None:
    async with client(server.host) as dcs:
        with server.frozen():
            async with bounded_without_blocking():
                calls = [dcs.cas(f"/k{i}", 0, b"x") for i in range(4 * CALLS_MAX)]
                results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, CasUnknown) for result in results) == CALLS_MAX
        assert sum("are waiting already" in str(result) for result in results) == 3 * CALLS_MAX


async def test_another_member_is_used_when_one_does_not_answer(server: EtcdServer) -> None:
    for _ in range(3):
        async with client(f"127.0.0.1:{free_port()}", server.host) as dcs:
            await dcs.read(PREFIX)


# --- a reply that was lost ---


async def test_cas_that_lands_after_a_read_showed_the_old_value(server: EtcdServer) -> None:
    async with (
        etcd_servers.relay_to(server) as relay,
        client(relay.host) as dcs,
        client(server.host, name="node2") as other,
    ):
        version = await must(dcs, KEY, 0, b"old")
        relay.up.clear()
        assert isinstance(await dcs.cas(KEY, version, b"late"), CasUnknown)
        assert await other.read(PREFIX) == {KEY: Versioned(b"old", version)}
        changes = other.watch(PREFIX)
        await next_of(changes)
        relay.release()
        await next_of(changes)
        assert (await other.read(PREFIX))[KEY].value == b"late"


async def test_cas_that_was_stored_while_its_reply_was_lost(server: EtcdServer) -> None:
    async with (
        etcd_servers.relay_to(server) as relay,
        client(relay.host) as dcs,
        client(server.host, name="node2") as other,
    ):
        version = await must(dcs, KEY, 0, b"old")
        relay.down.clear()
        assert isinstance(await dcs.cas(KEY, version, b"new"), CasUnknown)
        assert (await other.read(PREFIX))[KEY].value == b"new"
        relay.release()
        await once_available(lambda: dcs.read(PREFIX))
        assert await dcs.cas(KEY, version, b"again") == CasConflict()


@asynccontextmanager
async def proxy_that_hangs_up(target: int) -> AsyncGenerator[tuple[str, list[bytes]]]:
    """A proxy that closes the connection once it has been asked for a CAS, and what it was sent."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        with suppress(OSError):
            while chunk := await reader.read(65536):
                if b"compare" in chunk:
                    seen.append(chunk)
                    break
                back.write(chunk)
                writer.write(await there.read(65536))
        writer.close()
        back.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}", seen
    finally:
        listener.close()


async def test_cas_is_sent_once_even_when_the_server_hangs_up(server: EtcdServer) -> None:
    async with proxy_that_hangs_up(server.port) as (host, seen), client(host) as dcs:
        for number in range(1, 4):
            await once_available(lambda: dcs.read(PREFIX))
            assert isinstance(await dcs.cas(KEY, 0, b"x"), CasUnknown)
            assert len(seen) == number


async def test_cas_that_is_refused_for_lack_of_space_is_unknown() -> None:
    with etcd_servers.running({"quota-backend-bytes": "200000"}) as server:
        async with client(server.host) as dcs:
            version, number = await must(dcs, KEY, 0, b"0"), 0
            result = CasDone(version)
            async with asyncio.timeout(BOUND_S):
                while isinstance(result, CasDone):
                    version, number = result.version, number + 1
                    result = await dcs.cas(KEY, version, b"%d " % number + bytes(8000))
            # Sometimes the one that finds it is stored, and that is said in the same words.
            assert isinstance(result, CasUnknown)
            assert "space exceeded" in result.reason
            found = (await dcs.read(PREFIX))[KEY]
            assert found.value.startswith((b"%d " % (number - 1), b"%d " % number))
            assert isinstance(await dcs.cas(KEY, found.version, b"x"), CasUnknown)
            with pytest.raises(Unavailable, match="space exceeded"):
                await dcs.put(KEY, b"x")
            assert (await dcs.read(PREFIX))[KEY] == found


# --- amnesia ---


def fill_until(server: EtcdServer, last: int) -> None:
    """Use up revisions."""
    while (found := put(server, "/filler")) < last:
        pass
    assert found == last, "no revision is left to repeat"


async def test_nothing_of_an_emptied_server_is_taken_for_the_new(server: EtcdServer) -> None:
    async with client(server.host) as dcs:
        fill_until(server, 20)
        old = await must(dcs, KEY, 0, b"old")
        changes = dcs.watch(PREFIX)
        await next_of(changes)
        server.kill()
        server.wipe()
        server.start()
        await next_of(changes)
        assert await dcs.read(PREFIX) == {}
        assert await dcs.cas(KEY, old, b"x") == CasConflict()
        fill_until(server, old - 1)
        async with client(server.host, name="node2") as other:
            assert await must(other, KEY, 0, b"old") == old
        assert await dcs.cas(KEY, old, b"x") == CasConflict()
        found = (await dcs.read(PREFIX))[KEY]
        assert found.version > old
        assert await dcs.cas(KEY, old, b"x") == CasConflict()
        await must(dcs, KEY, found.version, b"x")


async def test_old_version_that_came_again_before_anybody_noticed(server: EtcdServer) -> None:
    async with client(server.host) as dcs:
        fill_until(server, 20)
        old = await must(dcs, KEY, 0, b"old")
        server.kill()
        server.wipe()
        server.start()
        server.wait_ready()
        fill_until(server, old - 1)
        assert put(server, KEY, b"new") == old
        await once_available(lambda: dcs.put("/elsewhere", b""))
        assert await dcs.cas(KEY, old, b"x") == CasConflict()
        assert (await dcs.read(PREFIX))[KEY].value == b"new"


async def test_nothing_of_a_restored_server_is_taken_for_the_newer(server: EtcdServer) -> None:
    async with client(server.host) as dcs:
        first = await must(dcs, KEY, 0, b"first")
        server.kill()
        server.copy_data("past")
        server.start()
        await once_available(lambda: dcs.read(PREFIX))
        fill_until(server, 20)
        old = await must(dcs, KEY, first, b"lost")
        server.kill()
        server.restore_data("past")
        server.start()
        await once_available(lambda: dcs.put("/elsewhere", b"x"))
        fill_until(server, old - 1)
        assert put(server, KEY, b"lost") == old
        assert await dcs.cas(KEY, old, b"x") == CasConflict()
        found = (await dcs.read(PREFIX))[KEY]
        assert found.version > old
        await must(dcs, KEY, found.version, b"x")


async def test_key_deleted_and_made_again_is_another_one(server: EtcdServer) -> None:
    async with client(server.host) as dcs, client(server.host, name="node2") as other:
        version = await must(dcs, KEY, 0, b"same")
        delete_below(server, "/service")
        assert await dcs.cas(KEY, version, b"x") == CasConflict()
        again = await must(other, KEY, 0, b"same")
        assert again > version
        assert await dcs.cas(KEY, version, b"x") == CasConflict()
        assert await dcs.read(PREFIX) == {KEY: Versioned(b"same", again)}


# --- watching ---


async def test_changes_of_another_client_are_seen_soon(server: EtcdServer) -> None:
    async with client(server.host) as dcs, client(server.host, name="node2") as other:
        changes = dcs.watch(PREFIX)
        await next_of(changes)
        delays: list[float] = []
        for i in range(30):
            waiting = asyncio.ensure_future(next_of(changes))
            await asyncio.sleep(0)
            before = time.monotonic()
            await other.put(f"{PREFIX}/members/node2", b"%d" % i)
            await waiting
            delays.append(time.monotonic() - before)
        assert sorted(delays)[-3] < 0.1, delays


async def test_deletions_are_changes(server: EtcdServer) -> None:
    async with client(server.host) as dcs:
        await must(dcs, KEY, 0, b"x")
        changes = dcs.watch(PREFIX)
        await next_of(changes)
        delete_below(server, "/service")
        await next_of(changes)


async def test_large_values_do_not_stop_a_watch(server: EtcdServer) -> None:
    async with client(server.host) as dcs:
        changes = dcs.watch(PREFIX)
        await next_of(changes)
        for size in (1_000_000, 1, 1_000_000):
            await dcs.put(KEY, bytes(size))
            await next_of(changes, PULSE_S)


async def test_reading_wakes_nobody_and_idle_costs_next_to_nothing(server: EtcdServer) -> None:
    async with client(server.host) as dcs, client(server.host, name="node2") as other:
        await must(dcs, KEY, 0, b"x")
        changes = dcs.watch("/")
        await next_of(changes)
        waiting = asyncio.ensure_future(next_of(changes))
        for reader in (dcs, other, dcs):
            assert set(await reader.read("/")) == {KEY}
        before = time.process_time()
        await asyncio.sleep(2 * PULSE_S)
        assert time.process_time() - before < 0.06
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_what_a_watch_needs_cannot_be_compacted(server: EtcdServer) -> None:
    async with client(server.host) as dcs:
        changes = dcs.watch(PREFIX)
        await next_of(changes)
        await dcs.put(KEY, b"1")
        await next_of(changes)
        server.kill()
        server.start()
        await next_of(changes)
        last = 0
        for _ in range(20):
            last = put(server, KEY, b"2")
        server.ask("kv/compaction", {"revision": str(last), "physical": True})
        await next_of(changes)
        await settle(dcs, b"3")
        await next_of(changes)


@pytest.mark.parametrize("struck", [killed, frozen])
async def test_lost_member_is_noticed_by_a_watch_alone(struck: Strike) -> None:
    async with (
        etcd_servers.ensemble() as (servers, peers),
        client(*(server.host for server in servers)) as dcs,
    ):
        changes = dcs.watch(PREFIX)
        await next_of(changes)
        used = used_by(dcs, servers)
        with struck(used, [], peers):
            await next_of(changes, SILENCE_BOUND_S)
            other = used_by(dcs, servers)
            assert other is not used
            waiting = asyncio.ensure_future(next_of(changes, 1.0))
            await asyncio.to_thread(put, other, KEY)
            await waiting


async def test_watch_gone_silent_is_noticed(
    server: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with deaf_proxy_to(server) as (host, deaf), client(host) as dcs:
        changes = dcs.watch(PREFIX)
        await next_of(changes)
        for change in (lambda: put(server, KEY, b"x"), lambda: delete_below(server, PREFIX)):
            deaf.set()
            await asyncio.to_thread(change)
            await next_of(changes, SILENCE_BOUND_S)
            deaf.clear()
            # The stream that took its place tells at once.
            await asyncio.sleep(PULSE_S)
        assert "missed a change" in caplog.text
        waiting = asyncio.ensure_future(next_of(changes, PULSE_S / 2))
        await asyncio.to_thread(put, server, KEY)
        await waiting


@asynccontextmanager
async def deaf_proxy_to(server: EtcdServer) -> AsyncGenerator[tuple[str, asyncio.Event]]:
    """A proxy that swallows what streams say that were begun before it was told to be deaf."""
    deaf, tasks = asyncio.Event(), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        is_old_stream = False

        async def up() -> None:
            nonlocal is_old_stream
            while chunk := await reader.read(65536):
                is_old_stream = b"/v3/watch" in chunk and not deaf.is_set()
                back.write(chunk)
            back.close()

        async def down() -> None:
            while chunk := await there.read(65536):
                if not (is_old_stream and deaf.is_set()):
                    writer.write(chunk)
            writer.close()

        tasks.update(asyncio.create_task(one()) for one in (up, down))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}", deaf
    finally:
        listener.close()
        for task in tasks:
            task.cancel()


# --- three members ---


def used_by(dcs: EtcdDcs, servers: list[EtcdServer]) -> EtcdServer:
    link = dcs._link
    assert link is not None
    return next(server for server in servers if server.url == link.url)


async def leader_of(servers: list[EtcdServer]) -> EtcdServer:
    async with asyncio.timeout(BOUND_S):
        while True:
            for server in servers:
                with suppress(OSError):
                    if await asyncio.to_thread(server.is_leader):
                        return server
            await asyncio.sleep(0.05)


class Writer:
    """Appends words to one value, each once; remembers what it was told about each."""

    def __init__(self, name: str, dcs: EtcdDcs) -> None:
        self.done: list[str] = []
        self.refused: list[str] = []
        self.unknown: list[str] = []
        self._name, self._dcs, self._stopping = name, dcs, False
        self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        number = 0
        while not self._stopping:
            number += 1
            word = f"{self._name}-{number}"
            try:
                entry = (await self._dcs.read(KEY)).get(KEY, Versioned(b"", 0))
                value = entry.value + f" {word}".encode()
                result = await self._dcs.cas(KEY, entry.version, value)
            except Unavailable:
                self.refused.append(word)
                await asyncio.sleep(0.02)
                continue
            match result:
                case CasDone():
                    self.done.append(word)
                case CasConflict():
                    self.refused.append(word)
                case CasUnknown():
                    self.unknown.append(word)

    async def progress(self, count: int = 15) -> None:
        aim = len(self.done) + count
        await until(lambda: len(self.done) >= aim)

    async def stop(self) -> None:
        self._stopping = True
        async with asyncio.timeout(BOUND_S):
            await self._task


async def assert_told_the_truth(writers: list[Writer], server: EtcdServer) -> None:
    for writer in writers:
        await writer.stop()
    async with client(server.host, name="reader") as reader:
        await once_available(lambda: reader.read(KEY))
        words = (await reader.read(KEY))[KEY].value.decode().split()
    assert len(words) == len(set(words))
    assert {w for writer in writers for w in writer.done} <= set(words)
    assert not {w for writer in writers for w in writer.refused} & set(words)


async def kill_leader(servers: list[EtcdServer], peers: Peers, writers: list[Writer]) -> None:
    killed = await leader_of(servers)
    killed.kill()
    for writer in writers:
        await writer.progress()
    killed.start()


async def freeze_leader(servers: list[EtcdServer], peers: Peers, writers: list[Writer]) -> None:
    frozen = await leader_of(servers)
    with frozen.frozen():
        for writer in writers:
            await writer.progress()


async def part_leader(servers: list[EtcdServer], peers: Peers, writers: list[Writer]) -> None:
    leader = await leader_of(servers)
    peers.part(leader.name, [server.name for server in servers if server is not leader])
    for writer in writers:
        await writer.progress()
    peers.join()


@pytest.mark.parametrize("fault", [kill_leader, freeze_leader, part_leader])
async def test_outcomes_are_true_whatever_happens_to_the_leader(
    fault: Callable[[list[EtcdServer], Peers, list[Writer]], Awaitable[None]],
) -> None:
    async with etcd_servers.ensemble() as (servers, peers):
        hosts = [server.host for server in servers]
        async with client(*hosts, name="a") as one, client(*hosts, name="b") as two:
            writers = [Writer("a", one), Writer("b", two)]
            for _ in range(3):
                for writer in writers:
                    await writer.progress()
                await fault(servers, peers, writers)
            for server in servers:
                await asyncio.to_thread(server.wait_ready)
            await assert_told_the_truth(writers, servers[0])


@pytest.mark.parametrize("struck", [killed, frozen, parted])
@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "not stored"])
async def test_leader_struck_in_the_middle_of_a_cas(struck: Strike, is_stored: bool) -> None:
    async with etcd_servers.ensemble() as (servers, peers):
        leader = await leader_of(servers)
        others = [server for server in servers if server is not leader]
        async with (
            etcd_servers.relay_to(leader) as relay,
            client(relay.host) as dcs,
            client(*(server.host for server in others), name="b") as other,
        ):
            version = await must(dcs, KEY, 0, b"old")
            changes = other.watch(PREFIX)
            await next_of(changes)
            (relay.down if is_stored else relay.up).clear()
            writing = asyncio.ensure_future(dcs.cas(KEY, version, b"new"))
            if is_stored:
                await next_of(changes)
            with struck(leader, others, peers):
                async with bounded_without_blocking():
                    assert isinstance(await writing, CasUnknown)
                assert await shown(other) == (b"new" if is_stored else b"old")
                await settle(other, b"settled")
            relay.release()
            peers.join()
            assert await shown(other) == b"settled"


async def test_leader_cut_off_in_the_middle_of_a_cas() -> None:
    async with etcd_servers.ensemble() as (servers, peers):
        leader = await leader_of(servers)
        others = [server for server in servers if server is not leader]
        async with client(leader.host) as dcs, client(others[0].host, name="b") as other:
            version = await must(dcs, KEY, 0, b"x")
            await other.read(PREFIX)
            peers.part(leader.name, [server.name for server in others])
            async with bounded_without_blocking():
                assert isinstance(await dcs.cas(KEY, version, b"lost"), CasUnknown)
            # It is not taken for a member of the majority, so nothing more is sent to it.
            for _ in range(5):
                with pytest.raises(Unavailable):
                    await dcs.cas(KEY, version, b"never")
            assert await shown(other) == b"x"
            await settle(other, b"mine")
            peers.join()
            assert await shown(dcs) == b"mine"


async def test_member_cut_off_from_the_majority_answers_no_read() -> None:
    async with etcd_servers.ensemble() as (servers, peers):
        alone = servers[0]
        async with client(alone.host) as dcs:
            await must(dcs, KEY, 0, b"x")
            peers.part(alone.name, [server.name for server in servers[1:]])
            async with bounded_without_blocking():
                with pytest.raises(Unavailable):
                    await dcs.read(PREFIX)
            # The member itself would go on to answer.
            stale = {"key": text(KEY), "serializable": True}
            assert (await asyncio.to_thread(alone.ask, "kv/range", stale))["count"] == "1"
            async with client(*(server.host for server in servers), name="b") as other:
                await once_available(lambda: other.read(PREFIX))


# --- TLS and users ---


def openssl(folder: Path, *args: str) -> None:
    subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)


def certify(folder: Path, name: str, extension: str) -> None:
    """Make NAME.pem and its key NAME.key, signed by ca.pem."""
    (folder / f"{name}.ext").write_text(extension)
    request = f"req -new -newkey rsa:2048 -nodes -keyout {name}.key -subj /CN={name}"
    openssl(folder, *request.split(), "-out", f"{name}.csr")
    sign = f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2"
    openssl(folder, *sign.split(), "-extfile", f"{name}.ext", "-out", f"{name}.pem")


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[EtcdOptions]:
    etcd_servers.skip_if_missing()
    ca = "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca"
    openssl(tmp_path, *ca.split())
    certify(tmp_path, "etcd", "subjectAltName = IP:127.0.0.1\n")
    certify(tmp_path, "agent", "extendedKeyUsage = clientAuth\n")
    operator = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    operator.load_cert_chain(tmp_path / "agent.pem", tmp_path / "agent.key")
    options = {
        "cert-file": tmp_path / "etcd.pem",
        "key-file": tmp_path / "etcd.key",
        "trusted-ca-file": tmp_path / "ca.pem",
        "client-cert-auth": "true",
    }
    with etcd_servers.running(options, context=operator) as server:
        yield EtcdOptions(
            hosts=(server.host,),
            protocol="https",
            cacert=tmp_path / "ca.pem",
            cert=tmp_path / "agent.pem",
            key=tmp_path / "agent.key",
        )


async def test_tls_with_an_authority_of_ones_own(secure: EtcdOptions, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text((tmp_path / "agent.pem").read_text() + (tmp_path / "agent.key").read_text())
    for options in (secure, replace(secure, cert=both, key=None)):
        dcs = await EtcdDcs.open(options, "node1")
        changes = dcs.watch(PREFIX)
        await next_of(changes)
        await dcs.put(KEY, bytes(200_000))
        await next_of(changes)
        version = (await dcs.read(PREFIX))[KEY].version
        await must(dcs, KEY, version, b"x")
        await dcs.close()


async def test_tls_checks_authority_name_and_certificate(secure: EtcdOptions) -> None:
    named = replace(secure, hosts=(secure.hosts[0].replace("127.0.0.1", "localhost"),))
    for options, words in (
        (named, "certificate"),
        (replace(secure, cacert=None), "certificate"),
        (replace(secure, cert=None, key=None), "etcd https://"),
        (replace(secure, protocol="http"), "etcd http://"),
    ):
        dcs = await EtcdDcs.open(options, "node1")
        with pytest.raises(Unavailable, match=words):
            await dcs.read(PREFIX)
        await dcs.close()


def enable_users(server: EtcdServer, prefix: str = "/service/") -> None:
    """root, and `agent`, who may use what is below the prefix only."""
    for user in ("root", "agent"):
        server.ask("auth/user/add", {"name": user, "password": PASSWORD})
    for role in ("root", "ha"):
        server.ask("auth/role/add", {"name": role})
    key, end = text(prefix), text(f"{prefix[:-1]}0")
    permission = {"permType": "READWRITE", "key": key, "range_end": end}
    server.ask("auth/role/grant", {"name": "ha", "perm": permission})
    server.ask("auth/user/grant", {"user": "root", "role": "root"})
    server.ask("auth/user/grant", {"user": "agent", "role": "ha"})
    server.ask("auth/enable", {})


async def test_user_writes_what_nobody_else_may(
    server: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    enable_users(server)
    options = EtcdOptions(hosts=(server.host,), username="agent", password=PASSWORD)
    dcs = await EtcdDcs.open(options, "node1")
    changes = dcs.watch(PREFIX)
    await next_of(changes)
    version = await must(dcs, KEY, 0, b"x")
    await next_of(changes)
    for call in (dcs.read("/other"), dcs.cas("/other", 0, b"x"), dcs.put("/other", b"x")):
        with pytest.raises(Unavailable, match="permission denied: agent needs readwrite"):
            await call
    async with client(server.host, name="stranger") as stranger:
        with pytest.raises(Unavailable, match="it wants a user and password"):
            await stranger.read(PREFIX)
    # Tokens are lost with the process, so they have to be renewed.
    server.kill()
    server.start()
    await next_of(changes)
    await once_available(lambda: dcs.read(PREFIX))
    await must(dcs, KEY, version, b"y")
    await next_of(changes)
    await dcs.close()
    assert PASSWORD not in repr(options)
    assert PASSWORD not in caplog.text


async def test_expired_token_is_renewed_and_no_cas_sent_twice() -> None:
    with etcd_servers.running({"auth-token-ttl": "1"}) as server:
        enable_users(server)
        options = {"username": "agent", "password": PASSWORD}
        async with client(server.host, **options) as dcs:
            version = await must(dcs, KEY, 0, b"x")

            async def refused() -> bool:
                link = dcs._link
                assert link is not None
                link._token = "expired"
                with pytest.raises(Unavailable, match="the login had expired"):
                    await dcs.cas(KEY, version, b"y")
                return link._token != "expired"

            assert await refused()
            assert (await dcs.read(PREFIX))[KEY] == Versioned(b"x", version)
            await must(dcs, KEY, version, b"y")
            # etcd forgets a token that was not used for its time to live, checked once a second.
            await asyncio.sleep(3.5)
            assert (await dcs.read(PREFIX))[KEY].value == b"y"
            await dcs.put(KEY, b"z")


async def test_passwords_are_switched_on_while_it_runs(server: EtcdServer) -> None:
    async with client(server.host, username="agent", password=PASSWORD) as dcs:
        version = await must(dcs, KEY, 0, b"x")
        enable_users(server)
        assert await dcs.read(PREFIX) == {KEY: Versioned(b"x", version)}
        await must(dcs, KEY, version, b"y")


async def test_wrong_password_is_said_once(
    server: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    enable_users(server)
    async with client(server.host, username="agent", password=f"not-{PASSWORD}") as dcs:
        for _ in range(3):
            with pytest.raises(Unavailable, match="user or password not accepted") as caught:
                await dcs.read(PREFIX)
            assert PASSWORD not in str(caught.value)
            await asyncio.sleep(1.0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert PASSWORD not in caplog.text


# --- the configuration ---


@pytest.mark.parametrize("section", ["hosts: ['{}']", "host: '{}'", "url: 'http://{}'"])
async def test_each_way_to_name_members_opens_them(section: str) -> None:
    host = etcd_servers.shared().host
    config, found = check_config(MINIMAL.replace(LOCAL, f"etcd3: {{{section.format(host)}}}"))
    assert config is not None, found
    dcs = await open_dcs(config, "node1")
    await must(dcs, KEY, 0, b"x")
    await dcs.close()


async def test_user_in_the_url(server: EtcdServer) -> None:
    enable_users(server)
    url = f"http://agent:{PASSWORD}@{server.host}"
    config, found = check_config(MINIMAL.replace(LOCAL, f"etcd3: {{url: '{url}'}}"))
    assert config is not None, found
    dcs = await open_dcs(config, "node1")
    await must(dcs, KEY, 0, b"x")
    await dcs.close()


# --- what is refused ---


async def test_what_is_no_etcd_is_named() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    host = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with client(host) as dcs:
        with pytest.raises(Unavailable, match="its answer is not etcd's"):
            await dcs.read(PREFIX)
    listener.close()


async def test_server_without_the_gateway_is_named() -> None:
    options = {"enable-grpc-gateway": "false"}
    with etcd_servers.running(options, wait=False) as server:
        async with client(server.host) as dcs:

            async def told() -> None:
                with pytest.raises(Unavailable, match="no JSON gateway") as caught:
                    await dcs.read(PREFIX)
                assert "3.4 or newer" in str(caught.value)

            async with asyncio.timeout(BOUND_S):
                while True:
                    with suppress(AssertionError):
                        await told()
                        break
                    await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hosts": ()}, "etcd3.hosts: found nothing"),
        ({"hosts": ("etcd:port",)}, "found 'etcd:port', expected host:port"),
        ({"hosts": ("http://etcd:2379",)}, "found 'http://etcd:2379'"),
        ({"hosts": ("a:1,b:2",)}, "found 'a:1,b:2'"),
        ({"protocol": "tcp"}, "etcd3.protocol: found 'tcp'"),
        ({"username": "agent"}, "only one of username and password"),
        ({"password": PASSWORD}, "only one of username and password"),
        ({"protocol": "https", "cacert": Path("/nowhere/ca.pem")}, "cacert: cannot read /nowhere"),
        ({"protocol": "https", "cacert": Path(__file__)}, "cacert: .* of no use"),
        ({"protocol": "https", "key": Path(__file__)}, "key without cert"),
        ({"protocol": "https", "cert": Path(__file__), "key": Path("/nowhere")}, "cannot read"),
        ({"protocol": "https", "cert": Path(__file__), "key": Path(__file__)}, "of no use"),
    ],
)
async def test_bad_options_are_refused(change: dict[str, object], message: str) -> None:
    options = EtcdOptions(**({"hosts": ("127.0.0.1:1",)} | change))  # pyright: ignore
    with pytest.raises(Refused, match=message) as caught:
        await EtcdDcs.open(options, "node1")
    assert PASSWORD not in str(caught.value)
