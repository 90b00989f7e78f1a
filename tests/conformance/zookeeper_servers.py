"""Throw-away ZooKeeper servers: real ones, each in a folder of its own, stopped by process id."""

import asyncio
import atexit
import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest
from kazoo.client import KazooClient

JARS = Path("/usr/share/java")
JAR = JARS / "zookeeper.jar"
MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
JAVA_OPTIONS = (
    "-Xmx128m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dzookeeper.admin.enableServer=false",
)
START_S = 30.0
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def skip_if_missing() -> None:
    """Skip the test where ZooKeeper cannot run."""
    if shutil.which("java") is None:
        pytest.skip("java is not installed: apt-get install zookeeper")
    if not JAR.exists():
        pytest.skip(f"ZooKeeper is not installed ({JAR} is missing): apt-get install zookeeper")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class ZookeeperServer:
    """One server process and its folder; `config` are further lines of its configuration file."""

    def __init__(
        self, folder: Path, config: Mapping[str, object], java: tuple[str, ...] = (), myid: int = 0
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self._java = java
        self._myid = myid
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        lines = {
            "tickTime": 2000,
            "dataDir": folder / "data",
            "4lw.commands.whitelist": "srvr",
            "maxClientCnxns": 0,
            "clientPort": self.port,
            "clientPortAddress": "127.0.0.1",
            **config,
        }
        (folder / "zoo.cfg").write_text("".join(f"{k}={v}\n" for k, v in lines.items()))

    def start(self) -> None:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        if self._myid:
            (data / "myid").write_text(f"{self._myid}\n")
        # The jar names only some of what TLS needs.
        class_path = f"{JAR}:{JARS}/netty-codec.jar:{JARS}/netty-resolver.jar"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["java", *JAVA_OPTIONS, *self._java, "-cp", class_path, MAIN, "zoo.cfg"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Not to outlive the tests, however they end; so start it in the main thread.
                preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
            )

    def mode(self) -> str | None:
        """standalone, leader or follower; None while it does not serve."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as sock:
            sock.sendall(b"srvr")
            answer = b""
            while chunk := sock.recv(4096):
                answer += chunk
            for line in answer.decode().splitlines():
                if line.startswith("Mode: "):
                    return line.removeprefix("Mode: ")
        return None

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while self.mode() is None:
            if self._process is None or self._process.poll() is not None:
                log = (self.folder / "log").read_text()
                raise AssertionError(f"ZooKeeper ended: {log[-2000:]}")
            if time.monotonic() > deadline:
                raise AssertionError("ZooKeeper does not start")
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self.send(number)
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


@contextmanager
def running(
    *, config: Mapping[str, object] | None = None, java: tuple[str, ...] = (), wait: bool = True
) -> Iterator[ZookeeperServer]:
    """A server of its own, in a temporary folder."""
    skip_if_missing()
    with tempfile.TemporaryDirectory(prefix="pgregent-zookeeper-") as folder:
        server = ZookeeperServer(Path(folder) / "1", config or {}, java)
        try:
            server.start()
            if wait:
                server.wait_ready()
            yield server
        finally:
            server.kill()


@contextmanager
def ensemble(count: int = 3) -> Iterator[list[ZookeeperServer]]:
    """Servers that form one ensemble, with a leader."""
    skip_if_missing()
    ports = {i: (free_port(), free_port()) for i in range(1, count + 1)}
    config: dict[str, object] = {
        f"server.{i}": f"127.0.0.1:{peer}:{election}" for i, (peer, election) in ports.items()
    } | {"initLimit": 5, "syncLimit": 2, "tickTime": 500, "minSessionTimeout": 4000}
    with tempfile.TemporaryDirectory(prefix="pgregent-zookeeper-") as folder:
        servers = [ZookeeperServer(Path(folder) / str(i), config, myid=i) for i in ports]
        try:
            for server in servers:
                server.start()
            for server in servers:
                server.wait_ready()
            yield servers
        finally:
            for server in servers:
                server.kill()


def write_jaas(file: Path, users: Mapping[str, str]) -> None:
    """Say who may log in with SASL; a server reads it when it starts."""
    quoted = {user: pw.replace("\\", r"\\").replace('"', r"\"") for user, pw in users.items()}
    lines = "".join(f'  user_{user}="{password}"\n' for user, password in quoted.items())
    module = "org.apache.zookeeper.server.auth.DigestLoginModule"
    file.touch(0o600)
    file.write_text(f"Server {{\n  {module} required\n{lines}  ;\n}};\n")


@contextmanager
def running_with_sasl(
    jaas: Path, users: Mapping[str, str], java: tuple[str, ...] = ()
) -> Iterator[ZookeeperServer]:
    """A server of its own that these users can log in to; `jaas` is the file that names them."""
    write_jaas(jaas, users)
    provider = "org.apache.zookeeper.server.auth.SASLAuthenticationProvider"
    option = f"-Djava.security.auth.login.config={jaas}"
    with running(config={"authProvider.1": provider}, java=(option, *java)) as server:
        yield server


@cache
def _shared() -> ZookeeperServer:
    manager = running()
    server = manager.__enter__()
    atexit.register(manager.__exit__, None, None, None)
    return server


def shared() -> ZookeeperServer:
    """One server as in the seed for all tests of this run, emptied."""
    skip_if_missing()
    server = _shared()
    with operator(server.host) as client:
        for name in client.get_children("/"):
            if name != "zookeeper":
                client.delete(f"/{name}", recursive=True)
    return server


@contextmanager
def operator(host: str) -> Iterator[KazooClient]:
    """A plain client, as an operator's shell would be."""
    client = KazooClient(host)
    client.start(timeout=START_S)
    try:
        yield client
    finally:
        client.stop()
        client.close()


class Relay:
    """A TCP relay before a server; either direction can be held back and released."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self.up, self.down = asyncio.Event(), asyncio.Event()
        self.release()
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def release(self) -> None:
        self.up.set()
        self.down.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        for source, drain, gate in ((reader, back, self.up), (there, writer, self.down)):
            task = asyncio.create_task(self._pump(source, drain, gate))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, source: asyncio.StreamReader, drain: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while chunk := await source.read(65536):
                await gate.wait()
                drain.write(chunk)
                await drain.drain()
        await gate.wait()
        drain.close()

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def relay_to(server: ZookeeperServer) -> AsyncGenerator[Relay]:
    relay = Relay(server.port)
    listener = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = listener.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        listener.close()
        relay.stop()
