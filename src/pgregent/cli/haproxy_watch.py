"""The process beside HAProxy: hears every agent and steers HAProxy by the newest register."""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import sys
import time
from collections.abc import Iterable, Mapping

import uvloop

from pgregent.adapters.entry.haproxy import Node
from pgregent.adapters.entry.haproxy_runtime import HaproxyEntry
from pgregent.adapters.entry.routes import Routes
from pgregent.adapters.peers.auth import derive_key
from pgregent.adapters.peers.channel import PeerChannel
from pgregent.cli.route_feed import STALE_AFTER, RouteFeed, stop_signal

log = logging.getLogger("pgregent")


def run_watch(
    nodes: Iterable[Node],
    secret: str,
    scope: str,
    runtime: str,
    tls: ssl.SSLContext | None = None,
) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code. `secret` is the replication role's
    password, `runtime` the path or host:port of HAProxy's runtime API, `tls` what agents whose
    port uses TLS are dialed with."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s.%(msecs)03d %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    return uvloop.run(_run(tuple(nodes), derive_key(secret, scope), runtime, tls))


class _Telling:
    """Hands the routes on; says each change, and who cannot be heard."""

    def __init__(self, entry: HaproxyEntry, nodes: Iterable[Node]) -> None:
        self._entry = entry
        self._known = {(node.host, node.port) for node in nodes}
        self._last = ""
        self._absent: Mapping[str, str] = {}

    def routes(self, routes: Routes | None) -> None:
        self._entry.set_routes(routes)
        if routes is None:
            text = "no agent is heard yet, or any more: HAProxy's own checks decide"
        elif routes.primary is None:
            text = f"new sessions are held: {routes.reason}"
        else:
            host, port = routes.primary
            text = f"the primary is {host}:{port} (term {routes.term})"
            if routes.primary not in self._known:
                text += ", which none of the files names: new sessions are held"
        if text != self._last:
            self._last = text
            log.info("%s", text)

    def absent(self, reasons: Mapping[str, str]) -> None:
        for name, reason in reasons.items():
            if self._absent.get(name) != reason:
                log.warning("%s", reason)
        for name in self._absent.keys() - reasons.keys():
            log.info("%s is heard", name)
        self._absent = reasons


async def _run(
    nodes: tuple[Node, ...], key: bytes, runtime: str, tls: ssl.SSLContext | None
) -> int:
    entry = HaproxyEntry(nodes, runtime)
    telling = _Telling(entry, nodes)

    patient_until = time.monotonic() + STALE_AFTER

    def take(routes: Routes) -> None:
        nonlocal patient_until
        heard = feed.heard_lately()
        if not heard:
            patient_until = time.monotonic() + STALE_AFTER
        # Who has not been heard yet is not gone: its sessions must not be cut.
        early = len(heard) < len(nodes) and time.monotonic() < patient_until
        telling.routes(None if early or not heard else routes)
        telling.absent(channel.reasons())

    feed = RouteFeed(take)
    # Two subscribers of one name would drive each other out.
    me = f"haproxy-{socket.gethostname()}-{os.getpid()}"
    channel = PeerChannel(me, key, feed.on_peer, subscriber=True, tls=tls)
    channel.set_peers({node.name: (node.api_host, node.api_port) for node in nodes})
    stop = stop_signal()
    steering = asyncio.create_task(entry.run())
    steering.add_done_callback(lambda _: stop.set())
    await channel.start()
    try:
        await feed.look_until(stop)
    finally:
        await channel.close()
        steering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await steering
        await entry.close()
    return 0
