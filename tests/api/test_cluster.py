"""GET /cluster: an agent asks the others what their records do not tell."""

import socket
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pgregent.api.cluster import Cluster
from pgregent.api.node import Node
from pgregent.api.tls import client_context, server_context
from pgregent.config.rest import Ctl, RestSecurity
from pgregent.core.view import State
from tests.api.certificates import Authority
from tests.api.members import LOOPBACK, N3, node, primary, served, standby

WAITS = {"max_connections": ("100", "200")}
TOLD = {
    "pending_restart": True,
    "pending_restart_reason": {"max_connections": {"old_value": "100", "new_value": "200"}},
}


def reached_at(made: State, name: str, port: int, scheme: str = "http") -> None:
    """That member's agent is there."""
    peer = made.peers[name]
    assert peer.record is not None
    peer.record = replace(peer.record, api_url=f"{scheme}://{LOOPBACK}:{port}/patroni")


async def told(subject: Node, tls: ssl.SSLContext | None = None) -> list[dict[str, Any]]:
    """What its agent answers of n1, n2 and n3."""
    async with (
        served(subject, Cluster(subject, tls).routes()) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://{LOOPBACK}:{port}/cluster") as answer,
    ):
        assert answer.status == 200
        members = (await answer.json())["members"]
    assert [member["name"] for member in members] == ["n1", "n2", "n3"]
    return [{key: member[key] for key in TOLD if key in member} for member in members]


async def test_everybody_is_asked_what_waits_for_a_start() -> None:
    made = primary()
    async with (
        served(node(standby(), pending_restart=WAITS)) as two,
        served(node(standby(N3))) as three,
    ):
        reached_at(made, "n2", two)
        reached_at(made, "n3", three)
        assert await told(node(made)) == [{}, TOLD, {}]


async def nonsense(request: web.Request) -> web.Response:
    return web.Response(text="[1]", content_type="application/json")


async def moved(request: web.Request) -> web.Response:
    raise web.HTTPFound("http://127.0.0.1:1/elsewhere")


@pytest.mark.parametrize("answer", [nonsense, moved])
async def test_an_answer_that_is_none_is_not_known(answer: Any) -> None:
    made = primary()
    app = web.Application()
    app.add_routes([web.get("/patroni", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, 0).start()
        for name in ("n2", "n3"):
            reached_at(made, name, runner.addresses[0][1])
        assert await told(node(made)) == [{}, {}, {}]
    finally:
        await runner.cleanup()


async def test_who_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = primary()
    with socket.create_server((LOOPBACK, 0)) as takes_and_says_nothing:
        port = takes_and_says_nothing.getsockname()[1]
        for name in ("n2", "n3"):
            reached_at(made, name, port)
        made.peers["n3"].closed = True
        monkeypatch.setattr("pgregent.api.cluster.TIMEOUT_S", 0.2)
        assert await told(node(made)) == [{}, {}, {}]
        takes_and_says_nothing.setblocking(False)
        takes_and_says_nothing.accept()[0].close()
        with pytest.raises(BlockingIOError):
            takes_and_says_nothing.accept()


async def test_agents_with_tls_are_asked_with_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("agent")
    rest = RestSecurity.model_validate(
        {
            "certfile": str(certificate),
            "keyfile": str(key),
            "cafile": str(authority.file),
            "verify_client": "required",
        }
    )
    made = primary()
    two = node(standby(), pending_restart=WAITS)
    async with served(two, tls=server_context(rest)) as port:
        reached_at(made, "n2", port, "https")
        made.peers["n3"].closed = True
        assert await told(node(made), client_context(rest, Ctl())) == [{}, TOLD, {}]
