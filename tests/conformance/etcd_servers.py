"""Throw-away etcd members: real ones, each in a folder of its own, stopped by process id."""

import asyncio
import atexit
import base64
import ctypes
import json
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.zookeeper_servers import PR_SET_PDEATHSIG, Relay

START_S = 30.0
_libc = ctypes.CDLL(None)


def skip_if_missing() -> None:
    """Skip the test where etcd cannot run."""
    if shutil.which("etcd") is None:
        pytest.skip("etcd is not installed: apt-get install etcd-server")


def server_port() -> int:
    """Return a free port that no connection takes for its own end until a server has it."""
    while True:
        with suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", random.randint(20000, 32000)))
            return int(sock.getsockname()[1])


class EtcdServer:
    """One member and its folder; `options` are further ones of its command line."""

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, object] | None = None,
        *,
        context: ssl.SSLContext | None = None,
        peer_port: int = 0,
    ) -> None:
        self.folder = folder
        self.name = folder.name
        self.port = server_port()
        self.host = f"127.0.0.1:{self.port}"
        self._context = context
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        self.url = f"{'https' if context else 'http'}://{self.host}"
        peer = f"http://127.0.0.1:{peer_port or server_port()}"
        self._options = {
            "name": self.name,
            "data-dir": "data",
            "listen-client-urls": self.url,
            "advertise-client-urls": self.url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"{self.name}={peer}",
            "logger": "zap",
            **(options or {}),
        }

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["etcd", *(f"--{k}={v}" for k, v in self._options.items())],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Not to outlive the tests, however they end; so start it in the main thread.
                preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
            )

    def ask(self, path: str, message: Mapping[str, Any], timeout_s: float = 5.0) -> dict[str, Any]:
        """Ask as an operator without a password would. Raises OSError."""
        data = json.dumps(message).encode()
        with urllib.request.urlopen(
            f"{self.url}/v3/{path}", data, timeout_s, context=self._context
        ) as answer:
            return json.load(answer)

    def is_ready(self) -> bool:
        """Whether it is part of a majority."""
        with suppress(OSError):
            self.ask("kv/range", {"key": text("/"), "keys_only": True}, 1.0)
            return True
        return False

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while not self.is_ready():
            if self._process is None or self._process.poll() is not None:
                log = (self.folder / "log").read_text()
                raise AssertionError(f"etcd ended: {log[-2000:]}")
            if time.monotonic() > deadline:
                raise AssertionError("etcd does not start")
            time.sleep(0.02)

    def is_leader(self) -> bool:
        status = self.ask("maintenance/status", {})
        return status["header"]["member_id"] == status.get("leader")

    def member_id(self) -> int:
        return int(self.ask("maintenance/status", {})["header"]["member_id"])

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self.send(number)
            if number == signal.SIGTERM:
                self.send(signal.SIGCONT)
            self._process.wait(START_S)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            if self._process is not None:
                self.send(signal.SIGCONT)

    def wipe(self) -> None:
        shutil.rmtree(self.folder / "data")

    def copy_data(self, name: str) -> None:
        shutil.copytree(self.folder / "data", self.folder / name)

    def restore_data(self, name: str) -> None:
        self.wipe()
        shutil.copytree(self.folder / name, self.folder / "data")


def text(key: str | bytes) -> str:
    """Return it as the gateway takes bytes."""
    return base64.b64encode(key if isinstance(key, bytes) else key.encode()).decode()


def put(server: EtcdServer, key: str, value: bytes = b"") -> int:
    """Store as an operator; returns the revision."""
    answer = server.ask("kv/put", {"key": text(key), "value": text(value)})
    return int(answer["header"]["revision"])


def delete_below(server: EtcdServer, path: str) -> None:
    """Delete all keys below the path, as an operator."""
    below = {"key": text(f"{path}/"), "range_end": text(f"{path}0")}
    server.ask("kv/deleterange", below)


@contextmanager
def running(
    options: Mapping[str, object] | None = None,
    *,
    context: ssl.SSLContext | None = None,
    wait: bool = True,
) -> Iterator[EtcdServer]:
    """A member of its own, in a temporary folder."""
    skip_if_missing()
    # It has nobody to wait for before it elects itself.
    quick = {"heartbeat-interval": 20, "election-timeout": 200}
    with tempfile.TemporaryDirectory(prefix="pgregent-etcd-") as folder:
        server = EtcdServer(Path(folder) / "1", {**quick, **(options or {})}, context=context)
        try:
            server.start()
            if wait:
                server.wait_ready()
            yield server
        finally:
            server.kill()


class Peers:
    """What members say to each other goes through here: each pair can be parted."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self._targets: dict[str, int] = {}
        self._ids: dict[str, int] = {}
        self._parted: set[frozenset[int]] = set()
        self._open: dict[asyncio.Task[None], tuple[int, str]] = {}

    async def add(self, name: str, target_port: int) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(name, reader, writer)

        self._targets[name] = target_port
        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.ports[name] = listener.sockets[0].getsockname()[1]
        return listener

    def know(self, servers: list[EtcdServer]) -> None:
        """Learn the ids under which members introduce themselves."""
        self._ids = {server.name: server.member_id() for server in servers}

    def part(self, one: str, others: list[str]) -> None:
        """Cut one off from the others, both ways."""
        self._parted = {frozenset((self._ids[one], self._ids[other])) for other in others}
        for task, (sender, to) in self._open.items():
            if self._are_parted(sender, to):
                task.cancel()

    def join(self) -> None:
        self._parted.clear()

    def _are_parted(self, sender: int, to: str) -> bool:
        return frozenset((sender, self._ids.get(to, 0))) in self._parted

    async def _serve(
        self, to: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            sender = _sender(head)
            if self._are_parted(sender, to):
                return
            self._open[task] = sender, to
            await self._pass_on(head, self._targets[to], reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.pop(task, None)
            writer.transport.abort()

    async def _pass_on(
        self,
        head: bytes,
        port: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        back.write(head)

        async def pump(source: asyncio.StreamReader, drain: asyncio.StreamWriter) -> None:
            while chunk := await source.read(65536):
                drain.write(chunk)
                await drain.drain()

        pumps = [asyncio.create_task(pump(reader, back)), asyncio.create_task(pump(there, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in pumps:
                task.cancel()
            back.transport.abort()

    def stop(self) -> None:
        for task in self._open:
            task.cancel()


def _sender(head: bytes) -> int:
    """Return the id of the member that says this to another; 0 in what does not say it."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b": ")
        if name.lower() == b"x-server-from":
            return int(value, 16)
    return 0


@asynccontextmanager
async def ensemble(count: int = 3) -> AsyncGenerator[tuple[list[EtcdServer], Peers]]:
    """Members that form one cluster, with a leader."""
    skip_if_missing()
    peers, real = Peers(), {str(i): server_port() for i in range(1, count + 1)}
    listeners = [await peers.add(name, port) for name, port in real.items()]
    urls = {name: f"http://127.0.0.1:{port}" for name, port in peers.ports.items()}
    cluster = ",".join(f"{name}={url}" for name, url in urls.items())
    servers: list[EtcdServer] = []
    with tempfile.TemporaryDirectory(prefix="pgregent-etcd-") as folder:
        try:
            for name, port in real.items():
                options = {"initial-advertise-peer-urls": urls[name], "initial-cluster": cluster}
                servers.append(EtcdServer(Path(folder) / name, options, peer_port=port))
                servers[-1].start()
            for server in servers:
                await asyncio.to_thread(server.wait_ready)
            peers.know(servers)
            yield servers, peers
        finally:
            for server in servers:
                server.kill()
            for listener in listeners:
                listener.close()
            peers.stop()


@cache
def _shared() -> EtcdServer:
    manager = running()
    server = manager.__enter__()
    atexit.register(manager.__exit__, None, None, None)
    return server


def shared() -> EtcdServer:
    """One member for all tests of this run, emptied."""
    skip_if_missing()
    server = _shared()
    server.ask("kv/deleterange", {"key": text(b"\0"), "range_end": text(b"\0")})
    return server


class LastingRelay(Relay):
    """Does not tell the server when a client has gone: etcd drops what nobody waits for."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self._kept: list[asyncio.StreamWriter] = []

    async def _pump(
        self, source: asyncio.StreamReader, drain: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        self._kept.append(drain)
        with suppress(OSError):
            while chunk := await source.read(65536):
                await gate.wait()
                drain.write(chunk)
                await drain.drain()
        await gate.wait()
        if gate is self.down:
            drain.close()

    def stop(self) -> None:
        super().stop()
        for writer in self._kept:
            writer.transport.abort()


@asynccontextmanager
async def relay_to(server: EtcdServer) -> AsyncGenerator[Relay]:
    """A relay for clients of this member, where either direction can be held back."""
    relay = LastingRelay(server.port)
    listener = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = listener.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        listener.close()
        relay.stop()
