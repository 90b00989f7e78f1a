"""Who may change something: the order of the checks, and that reading needs none of them."""

import base64
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pgregent import __version__
from pgregent.api import access
from pgregent.api.access import Access
from pgregent.config.rest import RestSecurity
from tests.api.members import LOOPBACK, node, primary, served

CHANGE, SIGNED = "/change", "/signed"
AUTHENTICATION = {"username": "admin", "password": "a:pass word"}


async def change(request: web.Request) -> web.Response:
    return web.Response(text="changed")


@contextlib.asynccontextmanager
async def port(members: Iterable[str] = (), **rest: Any) -> AsyncIterator[int]:
    """Where a server with this section `restapi` answers."""
    routes = [web.post(CHANGE, change), web.post(SIGNED, change)]
    security = RestSecurity.model_validate(rest)
    checks = Access(security, lambda: members, frozenset({SIGNED}))
    async with served(node(primary()), routes, checks) as answers:
        yield answers


async def asked(
    at: int, path: str = CHANGE, verb: str = "POST", headers: Mapping[str, str] | None = None
) -> tuple[int, str, Mapping[str, str]]:
    limit = aiohttp.ClientTimeout(total=5)
    url = f"http://{LOOPBACK}:{at}{path}"
    async with (
        aiohttp.ClientSession(timeout=limit) as session,
        session.request(verb, url, headers=headers) as answer,
    ):
        return answer.status, await answer.text(), answer.headers


def basic(text: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, (401, "no auth header received")),
        (basic("admin:wrong"), (401, "not authenticated")),
        (basic("other:a:pass word"), (401, "not authenticated")),
        ({"Authorization": "Bearer x"}, (401, "not authenticated")),
        ({"Authorization": "Basic ÿ"}, (401, "not authenticated")),
        (basic("admin:a:pass word"), (200, "changed")),
    ],
)
async def test_user_and_password(headers: Mapping[str, str], expected: tuple[int, str]) -> None:
    async with port(authentication=AUTHENTICATION) as at:
        status, text, told = await asked(at, headers=headers)
        assert (status, text) == expected
        assert (told.get("WWW-Authenticate") == 'Basic realm="Patroni"') == (status == 401)


async def test_reading_needs_nothing() -> None:
    async with port(authentication=AUTHENTICATION, allowlist=["192.0.2.1"]) as at:
        for path in ("/primary", "/patroni", "/metrics", "/cluster"):
            for verb in ("GET", "HEAD", "OPTIONS"):
                assert (await asked(at, path, verb))[0] == 200


async def test_what_is_not_there_is_not_told_to_strangers() -> None:
    async with port(authentication=AUTHENTICATION) as at:
        assert (await asked(at, "/nothing"))[0] == 401
        assert (await asked(at, "/nothing", headers=basic("admin:a:pass word")))[0] == 404


@pytest.mark.parametrize(
    ("allowlist", "members", "include", "may"),
    [
        (["192.0.2.1"], [], False, False),
        (["127.0.0.0/8"], [], False, True),
        (["127.0.0.1"], [], False, True),
        (["::/0"], [], False, False),
        (["localhost"], [], False, True),
        (["no-such-host.invalid"], [], False, False),
        (["192.0.2.1"], ["127.0.0.1"], False, False),
        (["192.0.2.1"], ["127.0.0.1"], True, True),
        ([], ["192.0.2.1"], True, False),
        ([], ["localhost"], True, True),
    ],
)
async def test_allowlist(
    allowlist: list[str], members: list[str], include: bool, may: bool
) -> None:
    async with port(members, allowlist=allowlist, allowlist_include_members=include) as at:
        status, text, _ = await asked(at)
        assert (status, text) == ((200, "changed") if may else (403, "Access is denied"))


async def test_the_address_comes_before_the_password() -> None:
    async with port(allowlist=["192.0.2.1"], authentication=AUTHENTICATION) as at:
        assert (await asked(at, headers=basic("admin:a:pass word")))[0] == 403
    async with port(allowlist=[LOOPBACK], authentication=AUTHENTICATION) as at:
        assert (await asked(at))[0] == 401


async def test_a_signature_stands_for_the_password_and_not_for_the_address() -> None:
    async with port(authentication=AUTHENTICATION) as at:
        assert (await asked(at, SIGNED))[0] == 200
    async with port(allowlist=["192.0.2.1"]) as at:
        assert (await asked(at, SIGNED))[0] == 403


async def test_headers_of_every_answer() -> None:
    async with port(
        http_extra_headers={"X-Frame-Options": "DENY", "X-Number": 5},
        https_extra_headers={"Strict-Transport-Security": "max-age=1"},
        authentication=AUTHENTICATION,
    ) as at:
        for path, verb in (("/patroni", "GET"), ("/primary", "OPTIONS"), (CHANGE, "POST")):
            headers = (await asked(at, path, verb))[2]
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["X-Number"] == "5"
            assert "Strict-Transport-Security" not in headers


@pytest.mark.parametrize(
    ("tokens", "server"), [("ProductOnly", "pgregent"), ("minimal", f"pgregent/{__version__}")]
)
async def test_server_tokens(tokens: str, server: str) -> None:
    async with port(server_tokens=tokens) as at:
        assert (await asked(at, "/patroni"))[2]["Server"] == server
    async with port(server_tokens=tokens, http_extra_headers={"Server": "mine"}) as at:
        assert (await asked(at, "/patroni"))[2]["Server"] == "mine"


@pytest.mark.parametrize(("members", "may"), [([], False), (["127.0.0.1"], True)])
async def test_without_any_of_it_only_members_may(
    monkeypatch: pytest.MonkeyPatch, members: list[str], may: bool
) -> None:
    """Patroni lets everybody: a PATCH of archive_command runs a program on every member."""
    async with port(members) as at:
        assert (await asked(at))[0] == 200, "from the machine itself"
    monkeypatch.setattr(access, "_LOOPBACK", ())
    async with port(members) as at:
        status, text, _ = await asked(at)
        assert status == (200 if may else 403)
        assert may or "restapi.authentication" in text
    async with port([], allowlist=["127.0.0.1"]) as at:
        assert (await asked(at))[0] == 200
