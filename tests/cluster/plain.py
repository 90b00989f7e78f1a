"""Plain PostgreSQL, started by hand: for the floor of the benchmark and for the harness's tests."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.cluster.processes import alive, descendants, kill_all_of, send, wait_for, working_in

SUPERUSER = "postgres"


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return as many different loopback ports that were free a moment ago."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom subprocess runs a server as; None: the user who runs the tests."""

    user: int | None = None
    group: int | None = None
    extra_groups: tuple[int, ...] | None = None


def as_postgres() -> Identity:
    """Return the unprivileged identity that root's servers take."""
    if os.geteuid() != 0:
        return Identity()
    user = pwd.getpwnam("postgres")
    return Identity(user.pw_uid, user.pw_gid, ())


def own(path: Path) -> None:
    """Give `path` to the user that runs PostgreSQL."""
    identity = as_postgres()
    if identity.user is not None and identity.group is not None:
        os.chown(path, identity.user, identity.group)


def make_directory(prefix: str) -> Path:
    """Return a new temporary directory that an unprivileged user can reach."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    path.chmod(0o755)
    return path


@dataclass(frozen=True, slots=True)
class PlainServer:
    """One server under `root`/`name`; all servers of a cluster share the password."""

    root: Path
    name: str
    port: int
    bin_dir: Path
    password: str

    @property
    def data_dir(self) -> Path:
        return self.root / self.name

    @property
    def conninfo(self) -> str:
        return (
            f"host=127.0.0.1 port={self.port} user={SUPERUSER} dbname=postgres"
            f" password={self.password} sslmode=disable"
        )

    @property
    def upstream(self) -> str:
        """What a standby of this server takes as primary_conninfo, but for its own name."""
        return (
            f"host=127.0.0.1 port={self.port} user={SUPERUSER} password={self.password}"
            " sslmode=disable"
        )

    def run(self, tool: str, *arguments: str) -> None:
        """Run one of PostgreSQL's tools as the unprivileged user; its output only if it fails."""
        identity = as_postgres()
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            [self.bin_dir / tool, *arguments],
            cwd=self.root,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGPASSWORD": self.password},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
            user=identity.user,
            group=identity.group,
            extra_groups=identity.extra_groups,
        )
        if done.returncode:
            raise RuntimeError(f"{tool} failed: {done.stdout.decode(errors='replace')}")

    def initdb(self) -> None:
        """Create the data directory."""
        password_file = self.root / f"{self.name}.password"
        password_file.touch(0o600)
        password_file.write_text(self.password)
        own(password_file)
        self.run(
            "initdb", "-D", str(self.data_dir), "-U", SUPERUSER, "-E", "UTF8", "--no-sync",
            "--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={password_file}", "-k",
        )  # fmt: skip
        password_file.unlink()
        self.configure()

    def clone_of(self, source: "PlainServer") -> None:
        """Replace the data directory by a copy of `source`'s, as its standby."""
        shutil.rmtree(self.data_dir, ignore_errors=True)
        self.run(
            "pg_basebackup", "-D", str(self.data_dir), "-d", source.upstream, "-X", "stream",
            "--checkpoint=fast", "--no-sync",
        )  # fmt: skip
        (self.data_dir / "postgresql.auto.conf").write_text("")
        (self.data_dir / "standby.signal").touch(0o600)
        own(self.data_dir / "standby.signal")
        self.configure(primary_conninfo=f"{source.upstream} application_name={self.name}")

    def configure(self, **settings: str) -> None:
        """Write the settings; those named here win."""
        base = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "shared_buffers": "64MB",
            "hot_standby": "on",
            "wal_keep_size": "256MB",
            "wal_retrieve_retry_interval": "20ms",
            "restart_after_crash": "off",
            "logging_collector": "off",
        }
        lines = [f"{key} = '{value}'\n" for key, value in (base | settings).items()]
        (self.data_dir / "postgresql.conf").write_text("".join(lines))

    def start(self) -> None:
        """Start the server and wait until it answers."""
        identity = as_postgres()
        with (self.root / f"{self.name}.log").open("ab") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                [self.bin_dir / "postgres", "-D", str(self.data_dir)],
                cwd=self.data_dir,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=identity.user,
                group=identity.group,
                extra_groups=identity.extra_groups,
            )
        _postmasters.append(process)
        wait_for(f"{self.name} answers", self.answers, timeout=30)

    def answers(self) -> bool:
        try:
            with psycopg.connect(self.conninfo, connect_timeout=2) as conn:
                return conn.execute("SELECT 1").fetchone() == (1,)
        except psycopg.Error:
            return False

    def connect(self) -> psycopg.Connection:
        """Return a superuser's session in autocommit mode."""
        return psycopg.connect(self.conninfo, autocommit=True, connect_timeout=5)

    def processes(self) -> set[int]:
        """Return the postmaster and everything it started, orphans too."""
        found = working_in(self.data_dir)
        for pid in list(found):
            found |= descendants(pid)
        return found

    def kill(self) -> None:
        """SIGKILL everything and reap it."""
        pids = self.processes()
        while pids:
            send(pids, signal.SIGKILL)
            reap()
            pids = {pid for pid in pids if alive(pid)} | self.processes()


_postmasters: list[subprocess.Popen[bytes]] = []


def reap() -> None:
    """Collect ended postmasters: a zombie blocks the next start."""
    _postmasters[:] = [process for process in _postmasters if process.poll() is None]


class PlainCluster:
    """A primary and standbys under ANY 1, set up by hand. Use as a context manager."""

    def __init__(self, bin_dir: Path, nodes: int = 3) -> None:
        self.root = make_directory("pgregent-plain-")
        own(self.root)
        password = secrets.token_urlsafe(24)
        self.servers = [
            PlainServer(self.root, f"plain{number}", free_port(), bin_dir, password)
            for number in range(1, nodes + 1)
        ]

    def __enter__(self) -> "PlainCluster":
        try:
            first, *others = self.servers
            first.initdb()
            first.start()
            for standby in others:
                standby.clone_of(first)
                standby.start()
            if others:
                require(first, others)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        kill_all_of(self.root)
        reap()
        shutil.rmtree(self.root)


def names(standbys: list[PlainServer]) -> str:
    """Return the value of synchronous_standby_names for ANY 1 of `standbys`."""
    return f"ANY 1 ({', '.join(server.name for server in standbys)})"


def require(primary: PlainServer, standbys: list[PlainServer]) -> None:
    """Make `primary` wait for any one of `standbys`, and see that all of them stream."""
    with primary.connect() as conn:
        conn.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names(standbys)}'".encode())
        conn.execute("SELECT pg_reload_conf()")

        def all_stream() -> bool:
            query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'"
            return conn.execute(query).fetchone() == (len(standbys),)

        wait_for("all standbys stream", all_stream, timeout=30)
