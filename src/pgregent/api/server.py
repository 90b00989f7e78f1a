"""The agent's web server: Patroni's endpoints, and limits on what a client may hold up."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

from pgregent.api import health, metrics, patroni
from pgregent.api.access import Access
from pgregent.api.node import Node
from pgregent.core.errors import Refused

IDLE_S = 10.0
"""A connection is closed when no whole request head has come for this long. A WebSocket has left
HTTP behind and is not concerned."""
WRITE_S = 5.0
"""A client that does not take its answer within this time is cut off."""
BODY_S = 1.0
"""How long a request's body, which no endpoint here wants, is waited for."""
BACKLOG = 1024

Answer = Callable[[web.Request], web.Response | Awaitable[web.Response]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def application(routes: Iterable[web.RouteDef], access: Access | None = None) -> web.Application:
    """The web application that answers on `routes`; who may change something is up to `access`."""
    app = web.Application(middlewares=[_answer_in_time])
    if access is not None:

        @web.middleware
        async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
            refusal = await access.refusal(request)
            return await handler(request) if refusal is None else refusal

        async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
            response.headers.update(access.rest.extra_headers)

        app.middlewares.append(admit)
        app.on_response_prepare.append(add_headers)
    app.add_routes(routes)
    return app


def runner(app: web.Application) -> web.AppRunner:
    """What runs `app`; a slow or idle client loses its connection, and delays nobody else."""
    return web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=0.2,
        keepalive_timeout=IDLE_S,
        lingering_time=BODY_S,
    )


async def listen(
    ready: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None = None
) -> None:
    """Accept connections; `ready` was set up. Raises OSError."""
    await _Site(ready, host, port, tls).start()


class _Site(web.BaseSite):
    """aiohttp's own would wait a minute for a client that does not begin TLS."""

    def __init__(
        self, ready: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(ready, ssl_context=tls, backlog=BACKLOG)
        self._host, self._port = host, port

    @property
    def name(self) -> str:
        """The site's address."""
        return f"{'http' if self._ssl_context is None else 'https'}://{self._host}:{self._port}"

    async def start(self) -> None:
        """Accept connections."""
        await super().start()
        server = self._runner.server
        assert server is not None
        limit = None if self._ssl_context is None else IDLE_S
        self._server = await asyncio.get_running_loop().create_server(
            server,
            self._host,
            self._port,
            ssl=self._ssl_context,
            backlog=self._backlog,
            reuse_address=True,
            ssl_handshake_timeout=limit,
            ssl_shutdown_timeout=None if limit is None else BODY_S,
        )


def routes(node: Node) -> list[web.RouteDef]:
    """Patroni's read-only endpoints. Nothing here reads anything but memory."""

    def check(path: str) -> Answer:
        def answer(request: web.Request) -> web.Response:
            passed = health.healthy(node, path, _parameters(request))
            return _json(patroni.member(node), 200 if passed else 503)

        return answer

    def document(make: Callable[[Node], Any]) -> Answer:
        return lambda _: _json(make(node))

    def liveness(request: web.Request) -> web.Response:
        return web.Response(status=200 if health.live(node) else 503)

    def readiness(request: web.Request) -> web.Response:
        passed = health.ready(node, _parameters(request))
        return web.Response(status=200 if passed else 503)

    def measure(request: web.Request) -> web.Response:
        return web.Response(text=metrics.text(node), headers={"Content-Type": METRICS_TYPE})

    answers: dict[str, Answer] = {path: check(path) for path in sorted(health.PATHS)} | {
        "/liveness": liveness,
        "/readiness": readiness,
        "/patroni": document(patroni.member),
        "/history": document(patroni.history),
        "/metrics": measure,
    }
    return [route for path, answer in answers.items() for route in reads(path, answer)]


def reads(path: str, answer: Answer) -> list[web.RouteDef]:
    """GET on `path`, with or without a slash at its end; HEAD and OPTIONS say the same without a
    body. A Refused becomes 400 with its sentence."""

    async def handle(request: web.Request) -> web.Response:
        try:
            found = answer(request)
            response = found if isinstance(found, web.Response) else await found
        except Refused as refused:
            response = _json({"error": str(refused)}, 400)
        return web.Response(status=response.status) if request.method == "OPTIONS" else response

    return [
        route
        for spelt in sorted({path, path.rstrip("/") + "/"})
        for route in (web.get(spelt, handle), web.options(spelt, handle))
    ]


def _json(document: Any, status: int = 200) -> web.Response:
    return web.json_response(document, status=status)


def _parameters(request: web.Request) -> Mapping[str, str]:
    return {key: request.query[key] for key in request.query}


@web.middleware
async def _answer_in_time(request: web.Request, handler: Handler) -> web.StreamResponse:
    """aiohttp waits for ever for a client that reads nothing."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        found = f"{request.method} {request.path}: {error.reason}"
        response = web.json_response({"error": found}, status=error.status, headers=allowed)
    if response.prepared:
        return response
    try:
        # A client that has left is aiohttp's to notice.
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(WRITE_S):
                await response.prepare(request)
                await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return response
