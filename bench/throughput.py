"""pgbench and a bulk COPY: straight to the primary, through the gate, through HAProxy.

python -m bench.throughput --seconds 10
"""

import argparse
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bench.tables import explained, markdown, say
from tests.cluster import servers
from tests.cluster.checkers import median
from tests.cluster.cluster import Cluster
from tests.cluster.command import clean_environment
from tests.cluster.plain import free_port
from tests.cluster.processes import wait_for

CLIENTS = (8, 64)
_TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_HAPROXY = """\
global
    maxconn 2000
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen entry
    bind 127.0.0.1:{port}
    server primary 127.0.0.1:{primary}
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind of work over one route: transactions, or megabytes, per second."""

    work: str
    route: str
    rate: float


class Pgbench:
    """Runs pgbench as the application; its password is in a file, in no argument."""

    def __init__(self, cluster: Cluster) -> None:
        parts = {
            key: str(value) for key, value in conninfo_to_dict(cluster.with_password()).items()
        }
        self._bin_dir = cluster.bin_dir
        self._login = ["-U", parts["user"], "-h", "127.0.0.1"]
        self._dbname = parts["dbname"]
        passfile = cluster.base / "bench.pgpass"
        passfile.touch(0o600)
        passfile.write_text(f"*:*:*:{parts['user']}:{parts['password']}\n")
        self._environment = clean_environment(PGPASSFILE=str(passfile))

    def run(self, port: int, *arguments: str, timeout: float) -> str:
        """Run pgbench to its end and return its output; RuntimeError with it if it fails."""
        done = subprocess.run(
            [self._bin_dir / "pgbench", *self._login, "-p", str(port), *arguments, self._dbname],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"pgbench {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def initialise(self, port: int, scale: int) -> None:
        """Create pgbench's tables."""
        self.run(port, "-i", "-q", "-s", str(scale), timeout=300)

    def tps(self, port: int, kind: str, clients: int, seconds: int) -> float:
        """Return transactions per second; `kind` is -S (reads) or -N (writes)."""
        output = self.run(
            *(port, kind, "-M", "prepared", "-n", "-T", str(seconds)),
            *("-c", str(clients), "-j", "2"),
            timeout=seconds + 60,
        )
        found = _TPS.search(output)
        if not found:
            raise RuntimeError(f"pgbench printed no rate: {output}")
        return float(found.group(1))


@contextmanager
def haproxy(directory: Path, primary_port: int) -> Generator[int | None]:
    """Run HAProxy in front of the primary; yields its port, None where it is not installed."""
    binary = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if not binary:
        yield None
        return
    port = free_port()
    config = directory / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, primary=primary_port))
    process = subprocess.Popen([binary, "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        wait_for("HAProxy listens", lambda: _listens(port), timeout=10)
        yield port
    finally:
        process.kill()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def copy_rate(conninfo: str, megabytes: int) -> float:
    """COPY rows into a table and return megabytes per second, the commit included."""
    row = b"x" * 1023 + b"\n"
    block = row * 256
    with psycopg.connect(conninfo, connect_timeout=10) as conn:
        conn.execute("DROP TABLE IF EXISTS bulk")
        conn.execute("CREATE TABLE bulk (line text)")
        conn.commit()
        start = time.monotonic()
        with conn.cursor().copy("COPY bulk FROM STDIN") as copy:
            for _ in range(megabytes * 4):
                copy.write(block)
        conn.commit()
        return megabytes / (time.monotonic() - start)


def run(bin_dir: Path, seconds: int, scale: int, megabytes: int, rounds: int) -> list[Measured]:
    """Measure every kind of work over every route, the routes in turn."""
    found: list[Measured] = []
    with Cluster(bin_dir) as cluster, explained(cluster):
        primary = cluster.members[cluster.wait_healthy()]
        bench = Pgbench(cluster)
        bench.initialise(primary.port, scale)
        gate = int(str(conninfo_to_dict(cluster.dsn)["port"]))
        with haproxy(cluster.base, primary.port) as proxy:
            ports = {"direct": primary.port, "gate": gate, "HAProxy": proxy}
            routes = {route: port for route, port in ports.items() if port}
            for _ in range(rounds):
                found += _round(cluster, bench, routes, seconds, megabytes)
    return found


def _round(
    cluster: Cluster, bench: Pgbench, routes: dict[str, int], seconds: int, megabytes: int
) -> list[Measured]:
    found: list[Measured] = []
    works = [(kind, clients) for kind in ("-S", "-N") for clients in CLIENTS]
    for kind, clients in works:
        for route, port in routes.items():
            rate = bench.tps(port, kind, clients, seconds)
            found.append(Measured(f"pgbench {kind}, {clients} clients, tps", route, rate))
            say(f"{found[-1].work} {route}: {rate:.0f}")
    for route, port in routes.items():
        rate = copy_rate(cluster.with_password(port=port), megabytes)
        found.append(Measured(f"COPY of {megabytes} MB, MB/s", route, rate))
        say(f"{found[-1].work} {route}: {rate:.0f}")
    return found


def report(measured: Sequence[Measured]) -> str:
    """Return the Markdown table: medians, and the gate in percent of the others."""
    works = list(dict.fromkeys(m.work for m in measured))
    rows: list[list[str]] = []
    for work in works:
        rates = {
            route: median([m.rate for m in measured if (m.work, m.route) == (work, route)])
            for route in dict.fromkeys(m.route for m in measured)
        }
        row = [work, *(f"{rates[r]:.0f}" if r in rates else "-" for r in _ROUTES)]
        for other in ("direct", "HAProxy"):
            row.append(f"{rates['gate'] / rates[other]:.0%}" if other in rates else "-")
        rows.append(row)
    return markdown(["work", *_ROUTES, "gate / direct", "gate / HAProxy"], rows)


_ROUTES = ("direct", "gate", "HAProxy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="of one pgbench run")
    parser.add_argument("--scale", type=int, default=10)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bin-dir", type=Path, default=servers.full()[1])
    o = parser.parse_args()
    sys.stdout.write(report(run(o.bin_dir, o.seconds, o.scale, o.megabytes, o.rounds)))


if __name__ == "__main__":
    main()
