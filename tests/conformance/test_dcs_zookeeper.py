"""What only a real ZooKeeper can show: lost replies, dead and frozen servers, amnesia, TLS, ACLs.

The scenarios that every DCS must pass run against it in test_dcs.py.
"""

import asyncio
import logging
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.security import make_acl, make_digest_acl_credential

from pgregent.adapters.dcs.zookeeper import (
    CALL_TIMEOUT_S,
    CALLS_MAX,
    ZookeeperDcs,
    ZookeeperOptions,
)
from pgregent.adapters.dcs.zookeeper_link import Link
from pgregent.core.errors import Refused, Unavailable
from pgregent.ports.dcs import CasConflict, CasDone, CasUnknown, Versioned
from tests.conformance import zookeeper_servers
from tests.conformance.zookeeper_servers import ZookeeperServer, operator

PREFIX = "/service/demo/pgregent"
KEY = f"{PREFIX}/register"
BOUND_S = 15.0
CALL_BOUND_S = CALL_TIMEOUT_S + 0.3
PASSWORD = "s3cret-w0rd"
REFUSALS = ("sessionRequireClientSASLAuth", "allowSaslFailedClients")
SASL_PASSWORD = 's3cret:w"\u00f6rd'


@pytest.fixture
def server() -> Iterator[ZookeeperServer]:
    with zookeeper_servers.running() as server:
        yield server


@asynccontextmanager
async def client(
    *hosts: str, name: str = "node1", **options: object
) -> AsyncGenerator[ZookeeperDcs]:
    dcs = await ZookeeperDcs.open(ZookeeperOptions(hosts=hosts, **options), name)  # pyright: ignore
    try:
        yield dcs
    finally:
        await dcs.close()


async def next_of(changes: AsyncIterator[None]) -> None:
    async with asyncio.timeout(BOUND_S):
        await anext(changes)


async def must(dcs: ZookeeperDcs, key: str, expected_version: int, value: bytes) -> int:
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


# --- away and back ---


async def test_open_without_a_server_then_it_comes(tmp_path: Path) -> None:
    zookeeper_servers.skip_if_missing()
    server = ZookeeperServer(tmp_path / "zookeeper", {})
    async with bounded_without_blocking():
        dcs = await ZookeeperDcs.open(ZookeeperOptions(hosts=(server.host,)), "node1")
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


async def test_stopped_and_started_again_with_its_data(server: ZookeeperServer) -> None:
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
        assert await dcs.cas(KEY, version, b"y") == CasConflict()
        assert await dcs.read(PREFIX) == {KEY: Versioned(b"x", version)}
        await must(dcs, KEY, version, b"y")


async def test_frozen_and_thawed(server: ZookeeperServer) -> None:
    async with client(server.host) as dcs:
        version = await must(dcs, KEY, 0, b"x")
        changes = dcs.watch(PREFIX)
        await next_of(changes)
        with server.frozen():
            async with bounded_without_blocking():
                read, put, cas = await asyncio.gather(
                    dcs.read(PREFIX),
                    dcs.put(f"{PREFIX}/members/a", b"a"),
                    dcs.cas(KEY, version, b"y"),
                    return_exceptions=True,
                )
            assert isinstance(read, Unavailable)
            assert isinstance(put, Unavailable)
            assert isinstance(cas, CasUnknown)
            async with bounded_without_blocking(0.2):
                with pytest.raises(Unavailable, match="no answer"):
                    await dcs.cas(KEY, version, b"z")
        await next_of(changes)
        await once_available(lambda: dcs.read(PREFIX))
        # The one in flight was in the server's hands, and lands.
        assert (await dcs.read(PREFIX))[KEY].value == b"y"


async def test_close_does_not_wait_for_a_frozen_server(server: ZookeeperServer) -> None:
    dcs = await ZookeeperDcs.open(ZookeeperOptions(hosts=(server.host,)), "node1")
    with server.frozen():
        async with bounded_without_blocking():
            await dcs.close()


async def test_line_of_callers_is_bounded(server: ZookeeperServer) -> None:
    async with client(server.host) as dcs:
        with server.frozen():
            async with bounded_without_blocking():
                calls = [dcs.cas(f"/k{i}", 0, b"x") for i in range(4 * CALLS_MAX)]
                results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, CasUnknown) for result in results) == CALLS_MAX
        assert sum("are waiting already" in str(result) for result in results) == 3 * CALLS_MAX


async def test_another_server_is_used_when_one_does_not_answer(server: ZookeeperServer) -> None:
    nobody = f"127.0.0.1:{zookeeper_servers.free_port()}"
    for _ in range(3):
        async with client(nobody, server.host) as dcs:
            await dcs.read(PREFIX)


# --- a reply that was lost ---


async def test_cas_that_lands_after_a_read_showed_the_old_value(server: ZookeeperServer) -> None:
    async with (
        zookeeper_servers.relay_to(server) as relay,
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


async def test_late_cas_is_settled_by_a_later_successful_one(server: ZookeeperServer) -> None:
    async with (
        zookeeper_servers.relay_to(server) as relay,
        client(relay.host) as dcs,
        client(server.host, name="node2") as other,
    ):
        version = await must(dcs, KEY, 0, b"old")
        relay.up.clear()
        assert isinstance(await dcs.cas(KEY, version, b"late"), CasUnknown)
        await other.read(PREFIX)
        newer = await must(other, KEY, version, b"mine")
        relay.release()
        await once_available(lambda: dcs.read(PREFIX))
        # What lands comes before what is read on a later connection through the same relay.
        assert await dcs.read(PREFIX) == {KEY: Versioned(b"mine", newer)}


async def test_cas_that_was_stored_while_its_reply_was_lost(server: ZookeeperServer) -> None:
    async with (
        zookeeper_servers.relay_to(server) as relay,
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


async def test_lost_creation_under_a_new_parent_is_unknown(server: ZookeeperServer) -> None:
    async with (
        zookeeper_servers.relay_to(server) as relay,
        client(relay.host) as dcs,
        client(server.host, name="node2") as other,
    ):
        await must(dcs, KEY, 0, b"x")
        relay.down.clear()
        assert isinstance(await dcs.cas(f"{PREFIX}/second", 0, b"y"), CasUnknown)
        assert (await other.read(PREFIX))[f"{PREFIX}/second"].value == b"y"


async def test_nothing_is_sent_on_a_later_connection(server: ZookeeperServer) -> None:
    # To kazoo two servers, of which it would take the second after the first.
    link = Link(
        f"{server.host},{server.host}",
        session_timeout_s=10.0,
        tls=None,
        auth_data=(),
        login=None,
        acl=None,
    )
    await link.connect()
    connection = link._handler._connection
    assert connection is not None
    connection.shutdown(socket.SHUT_RDWR)
    # A busy event loop hears of it late.
    time.sleep(0.3)  # noqa: ASYNC251
    assert not link.ended.is_set()
    late = link.ask(lambda c: c.create_async("/late", b""))
    time.sleep(0.2)  # noqa: ASYNC251
    async with asyncio.timeout(BOUND_S):
        await link.ended.wait()
        await late
    assert isinstance(late.result(), KazooException)
    with operator(server.host) as shell:
        assert shell.get_children("/") == ["zookeeper"]


# --- amnesia ---


def fill(shell: KazooClient, transactions: int) -> int:
    """Use up transaction ids; return the last one."""
    shell.ensure_path("/filler")
    return max(shell.set("/filler", b"").mzxid for _ in range(transactions))


def fill_until(shell: KazooClient, last: int) -> None:
    found = fill(shell, 1)
    assert found <= last, "no transaction id is left to repeat"
    while found < last:
        found = fill(shell, 1)
    assert found == last


async def test_nothing_of_an_emptied_server_is_taken_for_the_new(server: ZookeeperServer) -> None:
    async with client(server.host) as dcs:
        with operator(server.host) as shell:
            fill(shell, 50)
        old = await must(dcs, KEY, 0, b"old")
        changes = dcs.watch(PREFIX)
        await next_of(changes)
        server.kill()
        server.wipe()
        server.start()
        await next_of(changes)
        assert await dcs.read(PREFIX) == {}
        assert await dcs.cas(KEY, old, b"x") == CasConflict()
        async with client(server.host, name="node2") as other:
            with operator(server.host) as shell:
                shell.ensure_path(PREFIX)
                fill_until(shell, old - 1)
                await must(other, KEY, 0, b"new")
                assert shell.get(KEY)[1].mzxid == old
        assert await dcs.cas(KEY, old, b"x") == CasConflict()
        found = (await dcs.read(PREFIX))[KEY]
        assert found.version > old
        assert await dcs.cas(KEY, old, b"x") == CasConflict()
        await must(dcs, KEY, found.version, b"x")


async def test_nothing_of_a_restored_server_is_taken_for_the_newer(server: ZookeeperServer) -> None:
    async with client(server.host) as dcs, client(server.host, name="node2") as other:
        first = await must(dcs, KEY, 0, b"first")
        await other.read(PREFIX)
        server.kill()
        server.copy_data("past")
        server.start()
        await once_available(lambda: dcs.read(PREFIX))
        with operator(server.host) as shell:
            fill(shell, 50)
        old = await must(dcs, KEY, first, b"lost")
        server.kill()
        server.restore_data("past")
        server.start()
        await once_available(lambda: other.read(PREFIX))
        # Connected, but without having read the key.
        await once_available(lambda: dcs.put("/elsewhere", b"x"))
        with operator(server.host) as shell:
            fill_until(shell, old - 1)
            # The same data version and transaction id as those of what was lost.
            shell.set(KEY, b"other")
            assert shell.get(KEY)[1].mzxid == old
        assert await dcs.cas(KEY, old, b"x") == CasConflict()
        found = (await dcs.read(PREFIX))[KEY]
        assert found.value == b"other"
        assert await dcs.cas(KEY, old, b"x") == CasConflict()
        await must(dcs, KEY, found.version, b"x")


async def test_key_deleted_and_made_again_is_another_one(server: ZookeeperServer) -> None:
    async with client(server.host) as dcs, client(server.host, name="node2") as other:
        version = await must(dcs, KEY, 0, b"old")
        with operator(server.host) as shell:
            shell.delete("/service", recursive=True)
        await must(other, KEY, 0, b"new")
        assert await dcs.cas(KEY, version, b"x") == CasConflict()
        assert (await dcs.read(PREFIX))[KEY].value == b"new"


async def test_key_made_by_hand_can_be_written(server: ZookeeperServer) -> None:
    async with client(server.host) as dcs:
        with operator(server.host) as shell:
            shell.create(KEY, b"by hand", makepath=True)
        version = (await dcs.read(KEY))[KEY].version
        assert await dcs.cas(KEY, version, b"x") == CasConflict()
        again = (await dcs.read(KEY))[KEY]
        assert again == Versioned(b"by hand", version)
        await must(dcs, KEY, version, b"x")


# --- watching ---


async def test_changes_of_another_client_are_seen_soon(server: ZookeeperServer) -> None:
    async with client(server.host) as dcs, client(server.host, name="node2") as other:
        member = f"{PREFIX}/members/node2"
        await must(other, KEY, 0, b"x")
        await other.put(member, b"0")
        changes = dcs.watch(PREFIX)
        await next_of(changes)
        delays: list[float] = []
        for i in range(30):
            waiting = asyncio.ensure_future(next_of(changes))
            await asyncio.sleep(0)
            before = time.monotonic()
            await other.put(member, b"%d" % i)
            await waiting
            delays.append(time.monotonic() - before)
        assert sorted(delays)[-3] < 0.05, delays


async def test_deleted_and_made_again_under_a_watch(server: ZookeeperServer) -> None:
    shown: list[bytes | None] = []

    async def follow(dcs: ZookeeperDcs) -> None:
        async for _ in dcs.watch(PREFIX):
            entry = (await dcs.read(PREFIX)).get(KEY)
            shown.append(entry.value if entry else None)

    async with client(server.host) as dcs, client(server.host, name="node2") as other:
        following = asyncio.create_task(follow(dcs))
        for i in range(3):
            for j in range(3):
                value = b"%d-%d" % (i, j)
                await other.put(KEY, value)
                await until(lambda value=value: shown[-1:] == [value], 5.0)
            with operator(server.host) as shell:
                shell.delete("/service", recursive=True)
            await until(lambda: shown[-1:] == [None], 5.0)
        following.cancel()


async def test_reading_wakes_nobody_and_idle_costs_next_to_nothing(server: ZookeeperServer) -> None:
    async with client(server.host) as dcs, client(server.host, name="node2") as other:
        await must(dcs, KEY, 0, b"x")
        changes = dcs.watch("/")
        await next_of(changes)
        waiting = asyncio.ensure_future(next_of(changes))
        for reader in (dcs, other, dcs):
            assert set(await reader.read("/")) == {KEY}
        before = time.process_time()
        await asyncio.sleep(1.0)
        assert time.process_time() - before < 0.02
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])


# --- an ensemble ---


async def append(dcs: ZookeeperDcs, name: str, done: list[str], unknown: list[str]) -> None:
    """Append words to one value, for ever; every word once."""
    number = 0
    while True:
        try:
            entry = (await dcs.read(KEY)).get(KEY, Versioned(b"", 0))
            number += 1
            word = f"{name}-{number}"
            result = await dcs.cas(KEY, entry.version, entry.value + f" {word}".encode())
        except Unavailable:
            await asyncio.sleep(0.02)
            continue
        if isinstance(result, CasDone):
            done.append(word)
        elif isinstance(result, CasUnknown):
            unknown.append(word)


def leader_of(servers: list[ZookeeperServer]) -> ZookeeperServer:
    return next(server for server in servers if server.mode() == "leader")


async def connected_to(
    server: ZookeeperServer, hosts: list[str], name: str, caplog: pytest.LogCaptureFixture
) -> ZookeeperDcs:
    """A client of the whole ensemble that happens to use this server at first."""
    async with asyncio.timeout(BOUND_S):
        while True:
            dcs = await ZookeeperDcs.open(ZookeeperOptions(hosts=tuple(hosts)), name)
            if caplog.records[-1].getMessage() == f"{name}: connected to ZooKeeper {server.host}":
                return dcs
            await dcs.close()


async def test_leader_killed_and_frozen_in_a_stream_of_writes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pgregent")
    done: dict[str, list[str]] = {}
    unknown: list[str] = []

    async def progress() -> None:
        aims = {name: len(words) + 15 for name, words in done.items()}
        await until(lambda: all(len(words) >= aims[name] for name, words in done.items()))

    with zookeeper_servers.ensemble() as servers:
        hosts = [server.host for server in servers]
        async with AsyncExitStack() as stack:

            async def start(name: str, server: ZookeeperServer) -> ZookeeperDcs:
                dcs = await connected_to(server, hosts, name, caplog)
                stack.push_async_callback(dcs.close)
                done[name] = []
                writer = asyncio.create_task(append(dcs, name, done[name], unknown))
                stack.callback(writer.cancel)
                return dcs

            killed = leader_of(servers)
            await start("a", killed)
            await start("b", next(server for server in servers if server is not killed))
            await progress()
            killed.kill()
            await progress()
            killed.start()
            killed.wait_ready()
            frozen = leader_of(servers)
            dcs = await start("c", frozen)
            await progress()
            with frozen.frozen():
                assert isinstance(await dcs.cas(f"{PREFIX}/other", 0, b"x"), CasUnknown)
                await progress()
            await progress()
        async with client(*hosts, name="reader") as reader:
            await once_available(lambda: reader.read(KEY))
            words = (await reader.read(KEY))[KEY].value.decode().split()
    assert len(words) == len(set(words))
    acknowledged = {word for of_one in done.values() for word in of_one}
    assert acknowledged <= set(words)
    # At the end each was cancelled in the middle of one.
    unsettled = set(words) - acknowledged - set(unknown)
    assert len(unsettled) == len({word.split("-")[0] for word in unsettled})


async def test_server_cut_off_from_the_majority_answers_no_read() -> None:
    with zookeeper_servers.ensemble() as servers:
        leader = leader_of(servers)
        others = [server for server in servers if server is not leader]
        async with client(leader.host) as dcs:
            await must(dcs, KEY, 0, b"x")
            with operator(leader.host) as shell, others[0].frozen(), others[1].frozen():
                # The server itself would go on to answer.
                assert shell.get(KEY)[0] == b"x"
                async with bounded_without_blocking():
                    with pytest.raises(Unavailable):
                        await dcs.read(PREFIX)


# --- TLS and permissions ---


def openssl(folder: Path, *args: str) -> None:
    subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)


def certify(folder: Path, name: str, extension: str) -> None:
    """Make NAME.pem and its key NAME.key (with a password), signed by ca.pem."""
    (folder / "password").write_text(PASSWORD)
    (folder / f"{name}.ext").write_text(extension)
    request = (
        f"req -new -newkey rsa:2048 -keyout {name}.key -passout file:password -subj /CN={name}"
    )
    openssl(folder, *request.split(), "-out", f"{name}.csr")
    sign = f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2"
    openssl(folder, *sign.split(), "-extfile", f"{name}.ext", "-out", f"{name}.pem")


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[ZookeeperServer, ZookeeperOptions]]:
    zookeeper_servers.skip_if_missing()
    ca = "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca"
    openssl(tmp_path, *ca.split())
    certify(tmp_path, "zookeeper", "subjectAltName = IP:127.0.0.1")
    certify(tmp_path, "agent", "extendedKeyUsage = clientAuth")
    export = "pkcs12 -export -in zookeeper.pem -inkey zookeeper.key -passin file:password"
    (tmp_path / "store-password").write_text(PASSWORD)
    openssl(tmp_path, *export.split(), "-passout", "file:store-password", "-out", "zookeeper.p12")
    port = zookeeper_servers.free_port()
    config = {
        "secureClientPort": port,
        "secureClientPortAddress": "127.0.0.1",
        "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
        "ssl.keyStore.location": tmp_path / "zookeeper.p12",
        "ssl.keyStore.passwordPath": tmp_path / "store-password",
        "ssl.trustStore.location": tmp_path / "ca.pem",
    }
    options = ZookeeperOptions(
        hosts=(f"127.0.0.1:{port}",),
        use_ssl=True,
        cacert=tmp_path / "ca.pem",
        cert=tmp_path / "agent.pem",
        key=tmp_path / "agent.key",
        key_password=PASSWORD,
    )
    with zookeeper_servers.running(config=config) as server:
        yield server, options


async def test_tls(secure: tuple[ZookeeperServer, ZookeeperOptions]) -> None:
    server, options = secure
    dcs = await ZookeeperDcs.open(replace(options, set_acls={"CN=agent": ("ALL",)}), "node1")
    await must(dcs, KEY, 0, bytes(200_000))
    changes = dcs.watch(PREFIX)
    await next_of(changes)
    await asyncio.gather(*(dcs.put(f"{PREFIX}/members/{i}", bytes(5000)) for i in range(20)))
    await next_of(changes)
    assert len(await dcs.read(PREFIX)) == 21
    await dcs.close()
    # Nobody else has a certificate with that name.
    async with client(server.host) as stranger:
        with pytest.raises(Unavailable, match="no permission"):
            await stranger.read(PREFIX)


async def test_tls_refuses_another_host_name(
    secure: tuple[ZookeeperServer, ZookeeperOptions],
) -> None:
    options = secure[1]
    named = replace(options, hosts=(options.hosts[0].replace("127.0.0.1", "localhost"),))
    dcs = await ZookeeperDcs.open(named, "node1")
    with pytest.raises(Unavailable, match="certificate"):
        await dcs.read(PREFIX)
    await dcs.close()
    dcs = await ZookeeperDcs.open(replace(named, verify=False), "node1")
    assert await dcs.read(PREFIX) == {}
    await dcs.close()


async def test_nobody_writes_without_the_credentials(
    server: ZookeeperServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    credential = make_digest_acl_credential("agent", PASSWORD)
    options = ZookeeperOptions(
        hosts=(server.host,),
        set_acls={f"digest:{credential}": ("ALL",), "world:anyone": ("READ",)},
        auth_data={"digest": f"agent:{PASSWORD}"},
    )
    dcs = await ZookeeperDcs.open(options, "node1")
    version = await must(dcs, KEY, 0, b"x")
    async with client(server.host, name="stranger") as stranger:
        found = await stranger.read(PREFIX)
        assert found == {KEY: Versioned(b"x", version)}
        for call in (
            stranger.cas(KEY, version, b"y"),
            stranger.cas(f"{PREFIX}/other", 0, b"y"),
            stranger.put(KEY, b"y"),
            stranger.put("/service/other/key", b"y"),
        ):
            with pytest.raises(Unavailable, match="no permission"):
                await call
    assert await dcs.read("/") == found
    version = await must(dcs, KEY, version, b"z")
    server.kill()
    server.start()
    await once_available(lambda: dcs.read(PREFIX))
    await must(dcs, KEY, version, b"again")
    await dcs.close()
    assert PASSWORD not in repr(options)
    assert PASSWORD not in caplog.text
    own = [record.getMessage() for record in caplog.records if record.name == "pgregent"]
    assert 3 <= len(own) <= 8, own


async def test_root_need_not_be_writable_where_the_namespace_is(server: ZookeeperServer) -> None:
    with operator(server.host) as shell:
        shell.create("/service")
        shell.set_acls("/", [make_acl("world", "anyone", read=True)])
    async with client(server.host) as dcs:
        await must(dcs, KEY, 0, b"x")
        with pytest.raises(Unavailable, match="no permission for /elsewhere"):
            await dcs.put("/elsewhere/key", b"x")


async def test_credentials_that_are_not_accepted(
    server: ZookeeperServer, caplog: pytest.LogCaptureFixture
) -> None:
    options = ZookeeperOptions(hosts=(server.host,), auth_data={"no-such-scheme": PASSWORD})
    dcs = await ZookeeperDcs.open(options, "node1")
    for _ in range(3):
        with pytest.raises(Unavailable, match="AUTH_FAILED"):
            await dcs.read(PREFIX)
    await dcs.close()
    assert PASSWORD not in caplog.text
    assert len(caplog.records) == 1


# --- SASL ---


async def test_sasl_user_writes_what_nobody_else_may(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    users = {"agent": SASL_PASSWORD, "other": PASSWORD}
    with zookeeper_servers.running_with_sasl(tmp_path / "jaas.conf", users) as server:
        options = ZookeeperOptions(
            hosts=(server.host,),
            set_acls={"sasl:agent": ("ALL",), "world:anyone": ("READ",)},
            auth_data={"sasl": f"agent:{SASL_PASSWORD}"},
        )
        dcs = await ZookeeperDcs.open(options, "node1")
        version = await must(dcs, KEY, 0, b"x")
        for auth_data in ({}, {"sasl": f"other:{PASSWORD}"}):
            async with client(server.host, name="stranger", auth_data=auth_data) as stranger:
                assert await stranger.read(PREFIX) == {KEY: Versioned(b"x", version)}
                for call in (stranger.cas(KEY, version, b"y"), stranger.put(KEY, b"y")):
                    with pytest.raises(Unavailable, match="no permission"):
                        await call
        version = await must(dcs, KEY, version, b"y")
        server.kill()
        server.start()
        await once_available(lambda: dcs.read(PREFIX))
        await must(dcs, KEY, version, b"again")
        await dcs.close()
    assert SASL_PASSWORD not in repr(options)
    assert SASL_PASSWORD not in caplog.text


async def test_sasl_password_that_is_wrong_and_then_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jaas = tmp_path / "jaas.conf"
    # Each has its own way to say no.
    ways = ((), *((f"-Dzookeeper.{way}=true",) for way in REFUSALS))
    async with AsyncExitStack() as stack:
        run = partial(zookeeper_servers.running_with_sasl, jaas, {"agent": "another"})
        servers = [stack.enter_context(run(java)) for java in ways]
        clients = [client(s.host, auth_data={"sasl": f"agent:{PASSWORD}"}) for s in servers]
        found = await asyncio.gather(*(stack.enter_async_context(c) for c in clients))
        for dcs in found:
            with pytest.raises(Unavailable, match="SASL: user or password not accepted"):
                await dcs.read(PREFIX)
        # Of all attempts by now one is told by each.
        assert len(caplog.records) == len(ways)
        zookeeper_servers.write_jaas(jaas, {"agent": PASSWORD})
        for server in servers:
            server.kill()
            server.start()
        for dcs in found:
            await once_available(partial(dcs.read, PREFIX))
    assert PASSWORD not in caplog.text


async def test_sasl_where_the_server_has_none() -> None:
    host = zookeeper_servers.shared().host
    async with client(host, auth_data={"sasl": f"agent:{PASSWORD}"}) as dcs:
        with pytest.raises(Unavailable, match="SASL: the server does not offer it"):
            await dcs.read(PREFIX)


async def test_sasl_is_refused_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "puresasl", None)
    options = ZookeeperOptions(hosts=("127.0.0.1:1",), auth_data={"sasl": f"agent:{PASSWORD}"})
    with pytest.raises(Refused, match=r"pip install pgregent\[zookeeper\]") as caught:
        await ZookeeperDcs.open(options, "node1")
    assert PASSWORD not in str(caught.value)


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hosts": ()}, "zookeeper.hosts: found nothing"),
        ({"hosts": ("zoo:port",)}, "found 'zoo:port', expected host:port"),
        ({"hosts": ("zoo:99999",)}, "found 'zoo:99999'"),
        ({"hosts": ("zoo:2181/chroot",)}, "found 'zoo:2181/chroot'"),
        ({"hosts": (":2181",)}, "found ':2181'"),
        ({"hosts": ("a:1,b:2",)}, "found 'a:1,b:2'"),
        ({"use_ssl": True, "cacert": Path("/nowhere/ca.pem")}, "cacert: cannot read /nowhere"),
        ({"use_ssl": True, "cacert": Path(__file__)}, "cacert: .* is of no use"),
        ({"use_ssl": True, "cert": Path(__file__)}, "only one of cert and key"),
        ({"use_ssl": True, "cert": Path(__file__), "key": Path("/nowhere")}, "key: cannot read"),
        ({"use_ssl": True, "cert": Path(__file__), "key": Path(__file__)}, "is of no use"),
        ({"set_acls": {"CN=a": ("FLY",)}}, "CN=a: found FLY, expected some of CREATE"),
        ({"auth_data": {"sasl": PASSWORD}}, "the scheme sasl expected user:password"),
        ({"auth_data": {"sasl": f"m\u00fcller:{PASSWORD}"}}, "'m\u00fcller' .* expected ASCII"),
    ],
)
async def test_bad_options_are_refused(change: dict[str, object], message: str) -> None:
    options = ZookeeperOptions(**({"hosts": ("127.0.0.1:1",)} | change))  # pyright: ignore
    with pytest.raises(Refused, match=message) as caught:
        await ZookeeperDcs.open(options, "node1")
    assert PASSWORD not in str(caught.value)
