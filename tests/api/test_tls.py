"""TLS on the agent's port, for REST and for the channel between agents."""

import asyncio
import contextlib
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web

from pgregent.adapters.peers import auth
from pgregent.adapters.peers.channel import PeerChannel
from pgregent.api import server
from pgregent.api.access import Access
from pgregent.api.tls import client_context, server_context
from pgregent.config.rest import Ctl, RestSecurity
from pgregent.core.errors import Refused
from pgregent.ports.peers import Evidence, PeerClosed, PeerConnected, PeerEvent, PeerMessage
from tests.api.certificates import Authority
from tests.api.members import LOOPBACK, node, primary, served

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")

CHANGE = "/change"
KEY = auth.derive_key("a secret of the tests", "demo")


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policies = {"asyncio": asyncio.DefaultEventLoopPolicy, "uvloop": uvloop.EventLoopPolicy}
    return policies[request.param]()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(place: Path) -> Authority:
    return Authority(place)


@pytest.fixture(scope="module")
def agent(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("agent")


def security(authority: Authority, own: Sequence[Path], **more: Any) -> RestSecurity:
    files = {"certfile": str(own[0]), "keyfile": str(own[1]), "cafile": str(authority.file)}
    return RestSecurity.model_validate(files | more)


async def change(request: web.Request) -> web.Response:
    return web.Response(text="changed")


@contextlib.asynccontextmanager
async def port(rest: RestSecurity) -> AsyncIterator[int]:
    access = Access(rest, list)
    routes = [web.post(CHANGE, change)]
    async with served(node(primary()), routes, access, server_context(rest)) as answers:
        yield answers


async def asked(at: int, tls: ssl.SSLContext, verb: str = "GET", path: str = "/primary") -> Any:
    limit = aiohttp.ClientTimeout(total=5)
    async with (
        aiohttp.ClientSession(timeout=limit) as session,
        session.request(verb, f"https://{LOOPBACK}:{at}{path}", ssl=tls) as answer,
    ):
        return answer.status, answer.headers


def stranger(authority: Authority) -> ssl.SSLContext:
    """A client without a certificate of its own."""
    return ssl.create_default_context(cafile=authority.file)


async def test_the_port_answers_with_tls_only(
    authority: Authority, agent: tuple[Path, Path]
) -> None:
    rest = security(
        authority,
        agent,
        http_extra_headers={"A": "1", "B": "1"},
        https_extra_headers={"B": "2"},
        ciphers="ECDHE+AESGCM",
    )
    async with port(rest) as at:
        status, headers = await asked(at, stranger(authority))
        assert (status, headers["A"], headers["B"]) == (200, "1", "2")
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://{LOOPBACK}:{at}/primary")
        old = stranger(authority)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
        with pytest.raises(aiohttp.ClientError):
            await asked(at, old)


@pytest.mark.parametrize(
    ("verify", "certified", "may"),
    [
        ("none", False, (True, True)),
        ("optional", False, (True, False)),
        ("optional", True, (True, True)),
        ("required", False, (False, False)),
        ("required", True, (True, True)),
    ],
)
async def test_certificates_of_clients(
    authority: Authority,
    agent: tuple[Path, Path],
    verify: str,
    certified: bool,
    may: tuple[bool, bool],
) -> None:
    """`may`: read, change."""
    reads, changes = may
    rest = security(authority, agent, verify_client=verify)
    client = client_context(rest, Ctl()) if certified else stranger(authority)
    assert client is not None
    async with port(rest) as at:
        if not reads:
            with pytest.raises(aiohttp.ClientError):
                await asked(at, client)
            return
        assert (await asked(at, client))[0] == 200
        assert (await asked(at, client, "POST", CHANGE))[0] == (200 if changes else 403)


async def test_ctl_says_how_others_are_asked(
    authority: Authority, agent: tuple[Path, Path], place: Path
) -> None:
    """Another authority's certificate, and a name that it is not for."""
    other = Authority(place, "other")
    elsewhere = other.issue("elsewhere", "DNS:db.example")
    own = authority.issue("client")
    locked = authority.encrypted(own[1], "open sesame")
    rest = security(authority, elsewhere, verify_client="required")
    restapi_only = client_context(rest, Ctl())
    sections: dict[str, dict[str, Any]] = {
        "insecure": {"insecure": True},
        "by name": {"cacert": str(other.file)},
        "whole": {
            "insecure": True,
            "certfile": str(own[0]),
            "keyfile": str(locked),
            "keyfile_password": "open sesame",
        },
    }
    clients = {
        what: client_context(rest, Ctl.model_validate(section))
        for what, section in sections.items()
    }
    async with port(rest) as at:
        for refused in (restapi_only, clients["by name"], clients["insecure"]):
            assert refused is not None
            with pytest.raises(aiohttp.ClientError):
                await asked(at, refused)
        whole = clients["whole"]
        assert whole is not None
        assert (await asked(at, whole))[0] == 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"certfile": "/no/such.pem"}, "restapi.certfile, keyfile: cannot use /no/such.pem"),
        ({"keyfile": "/no/such.key"}, "No such file"),
        ({"cafile": "/no/such.pem"}, "restapi.cafile: cannot use /no/such.pem: No such file"),
        ({"ciphers": "NONSENSE"}, "restapi.ciphers: found 'NONSENSE'"),
    ],
)
def test_what_cannot_be_used_is_named(
    authority: Authority, agent: tuple[Path, Path], change: dict[str, str], words: str
) -> None:
    with pytest.raises(Refused, match="expected") as error:
        server_context(security(authority, agent, **change))
    assert words in str(error.value)


def test_a_key_that_the_password_does_not_open(
    authority: Authority, agent: tuple[Path, Path]
) -> None:
    locked = authority.encrypted(agent[1], "right")
    for more in ({}, {"keyfile_password": "wrong"}):
        with pytest.raises(Refused, match="keyfile_password opens") as error:
            server_context(security(authority, (agent[0], locked), **more))
        assert "wrong" not in str(error.value)
    more = {"keyfile_password": "right"}
    assert server_context(security(authority, (agent[0], locked), **more)) is not None


async def test_who_does_not_begin_tls_loses_the_connection(
    authority: Authority, agent: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.3)
    async with port(security(authority, agent)) as at:
        reader, writer = await asyncio.open_connection(LOOPBACK, at)
        try:
            began = time.monotonic()
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(5):
                    assert await reader.read() == b""
            assert time.monotonic() - began < 4
        finally:
            writer.close()


# --- the channel between agents ------------------------------------------------------------------


class Peer:
    """A channel, the port that it is mounted on, and what it reported."""

    def __init__(self, name: str, rest: RestSecurity, ctl: Ctl | None = None) -> None:
        self.events: list[PeerEvent] = []
        tls = client_context(rest, ctl or Ctl())
        self.channel = PeerChannel(name, KEY, self.events.append, tls=tls)
        self._rest = rest

    @contextlib.asynccontextmanager
    async def started(self) -> AsyncIterator[int]:
        routes = self.channel.routes()
        access = Access(self._rest, list)
        async with served(node(primary()), routes, access, server_context(self._rest)) as at:
            await self.channel.start()
            try:
                yield at
            finally:
                await self.channel.close()

    def has(self, payload: bytes) -> bool:
        return any(isinstance(e, PeerMessage) and e.payload == payload for e in self.events)


async def until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, f"not within 10 s: {what}"
        await asyncio.sleep(0.01)


async def test_agents_hear_each_other_through_it(
    authority: Authority, agent: tuple[Path, Path]
) -> None:
    rest = security(authority, agent, verify_client="required")
    one, two = Peer("n1", rest), Peer("n2", rest)
    async with one.started() as at_one, two.started() as at_two:
        one.channel.set_peers({"n2": (LOOPBACK, at_two)})
        two.channel.set_peers({"n1": (LOOPBACK, at_one)})
        one.channel.publish(b"from one" * 10_000)
        two.channel.publish(b"from two")
        await until("n2 hears n1", lambda: two.has(b"from one" * 10_000))
        await until("n1 hears n2", lambda: one.has(b"from two"))
        for n in range(50):
            one.channel.publish(b"%d" % n)
        await until("the newest arrives", lambda: two.has(b"49"))
        assert one.channel.reasons() == two.channel.reasons() == {}
    ends = [e.evidence for e in two.events if isinstance(e, PeerClosed)]
    assert ends in ([Evidence.PEER_LEFT], [Evidence.LOCAL])


async def test_a_peer_that_is_killed_is_known_to_be_gone(
    authority: Authority, agent: tuple[Path, Path]
) -> None:
    """Its kernel says so, without a goodbye of TLS."""
    rest = security(authority, agent, verify_client="required")
    one = Peer("n1", rest)
    async with one.started() as at:
        arguments = ("n2", str(at), *map(str, agent), str(authority.file))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.api.tls_peer", *arguments),
            cwd=Path(__file__).parents[2],
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout
            async with asyncio.timeout(20):
                port_of_two = int(await process.stdout.readline())
            one.channel.set_peers({"n2": (LOOPBACK, port_of_two)})
            await until("n1 hears n2", lambda: one.has(b"alive"))
            process.kill()
            killed = time.monotonic()
            await until("n1 knows", lambda: isinstance(one.events[-1], PeerClosed))
            assert time.monotonic() - killed < 1
            end = one.events[-1]
            assert isinstance(end, PeerClosed)
            assert end.evidence is Evidence.PEER_CLOSED
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def test_an_agent_without_a_certificate_is_not_heard(
    authority: Authority, agent: tuple[Path, Path], place: Path
) -> None:
    strange = Authority(place, "strange").issue("strange agent")
    rest = security(authority, agent, verify_client="required")
    one, two = Peer("n1", security(authority, strange)), Peer("n2", rest)
    async with one.started() as at_one, two.started() as at_two:
        one.channel.set_peers({"n2": (LOOPBACK, at_two)})
        two.channel.set_peers({"n1": (LOOPBACK, at_one)})
        await until(
            "n1 was turned away", lambda: "cannot connect" in one.channel.reasons().get("n2", "")
        )
        assert not any(isinstance(e, PeerConnected) for e in (*one.events, *two.events))


async def test_an_agent_without_tls_is_told_so(
    authority: Authority, agent: tuple[Path, Path]
) -> None:
    plain, rest = RestSecurity(), security(authority, agent)
    one, two = Peer("n1", plain), Peer("n2", rest)
    async with one.started() as at_one, two.started() as at_two:
        one.channel.set_peers({"n2": (LOOPBACK, at_two)})
        two.channel.set_peers({"n1": (LOOPBACK, at_one)})
        await until("n1 says why", lambda: "cannot connect" in one.channel.reasons().get("n2", ""))
