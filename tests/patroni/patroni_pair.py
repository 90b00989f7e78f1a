"""The seed's cluster on loopback under Patroni itself, and the same files under our agents."""

import json
import signal
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psycopg
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from psycopg.conninfo import make_conninfo

from tests.cluster.command import COMMAND, Finished, clean_environment
from tests.cluster.nodes import Events
from tests.cluster.pair import HOST, Pair
from tests.cluster.plain import as_postgres, own
from tests.cluster.processes import wait_for
from tests.conformance.etcd_servers import EtcdServer, text

PATRONI_S = 45.0
# The seed's timers make Patroni slow, and nothing else.
QUICKER = {
    "ttl: 30": "ttl: 20",
    "loop_wait: 10": "loop_wait: 1",
    "retry_timeout: 10": "retry_timeout: 3",
}


def _as_postgres() -> list[str]:
    """What runs the rest of a command as the servers' user, who may read whatever root may: this
    Python may be in root's own directory."""
    identity = as_postgres()
    if identity.user is None:
        return []
    groups = ",".join(map(str, identity.extra_groups or ()))
    return [
        *("setpriv", f"--reuid={identity.user}", f"--regid={identity.group}"),
        f"--groups={groups}" if groups else "--clear-groups",
        *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
    ]


class PatroniPair(Pair):
    """Clients know both servers, and no proxy. Nothing runs at first but the DCS."""

    def __init__(self, bin_dir: Path, *, etcd: bool = False) -> None:
        super().__init__(bin_dir)
        self.scope_dir = f"/service/{self.scope()}"
        # Patroni's session ends with this, and not with its ttl, which is 20 s at least.
        with (self.zookeeper.folder / "zoo.cfg").open("a") as lines:
            lines.write("maxSessionTimeout=4000\n")
        of_the_seed = f"zookeeper:\n hosts:\n   - {self.zookeeper.host}\n"
        if etcd:
            self.etcd = self.zookeeper = EtcdServer(self.base / "etcd")  # pyright: ignore
        for file in self.files.values():
            text_ = file.read_text()
            for old, new in QUICKER.items():
                assert old in text_
                text_ = text_.replace(old, new)
            if etcd:
                hosts = f"etcd3:\n  hosts: ['{self.zookeeper.host}']\n"
                assert of_the_seed in text_
                text_ = text_.replace(of_the_seed, hosts)
            file.write_text(text_)
            own(file)
        members = self.members.values()
        self.dsn = make_conninfo(
            host=",".join(m.host for m in members),
            port=",".join(str(m.port) for m in members),
            user="postgres",
            password="postgres",
            dbname="postgres",
            target_session_attrs="read-write",
        )

    def start(self) -> None:
        """Have Patroni make the cluster; clients can write when it returns."""
        self.zookeeper.start()
        self.zookeeper.wait_ready()
        first, second = self.members
        self.start_patroni(first)
        self.until_leader(first)
        self.start_patroni(second)
        self.until_streaming(first, second)

    def start_patroni(self, name: str) -> None:
        """Start Patroni beside a server, as its unprivileged user."""
        folder = self.base / "nodes" / name
        with (folder / "patroni.log").open("ab") as log:
            self._processes[f"patroni of {name}"] = subprocess.Popen(
                [*_as_postgres(), sys.executable, "-m", "patroni", str(self.files[name])],
                cwd=folder,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end_patroni(self, names: Iterable[str]) -> None:
        """SIGTERM to Patroni on these hosts; wait until it has ended."""
        ending = {n: p for n in names if (p := self._processes.pop(f"patroni of {n}", None))}
        for process in ending.values():
            process.send_signal(signal.SIGTERM)
        for process in ending.values():
            process.wait(30)

    def stop_patroni(self) -> None:
        """The same on all hosts; wait until its keys are gone, too."""
        self.end_patroni(self.members)
        if isinstance(self.zookeeper, EtcdServer):
            # As `ttl` would do.
            for lease in self.zookeeper.ask("lease/leases", {}).get("leases", []):
                self.zookeeper.ask("lease/revoke", lease)
        wait_for(
            "Patroni's keys go",
            lambda: not any(map(self.value, ("leader", *(f"members/{n}" for n in self.members)))),
            timeout=PATRONI_S,
        )

    def patronictl(self, *arguments: str) -> str:
        """What patronictl prints; AssertionError unless it succeeds."""
        tool = str(Path(sys.executable).with_name("patronictl"))
        done = subprocess.run(
            [tool, "-c", str(next(iter(self.files.values()))), *arguments],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def value(self, name: str) -> str | None:
        """What a key below the scope's holds."""
        key = f"{self.scope_dir}/{name}"
        if isinstance(self.zookeeper, EtcdServer):
            found = self.zookeeper.ask("kv/range", {"key": text(key)}).get("kvs", [])
            return b64decode(found[0]["value"]).decode() if found else None
        client = KazooClient(self.zookeeper.host)
        client.start(timeout=PATRONI_S)
        try:
            return client.get(key)[0].decode()
        except NoNodeError:
            return None
        finally:
            client.stop()
            client.close()

    def until_leader(self, name: str) -> None:
        """Wait until Patroni says that this member leads and runs."""
        self._until(f"{name} leads", lambda rows: self._states(rows).get(name) == "running", name)

    def until_streaming(self, leader: str, standby: str) -> None:
        """The same, and that the other streams and is what commits wait for."""
        self._until(
            f"{standby} streams from {leader}",
            lambda rows: (
                self._states(rows) == {leader: "running", standby: "streaming"}
                and {r["Role"] for r in rows if r["Member"] == standby} == {"Sync Standby"}
            ),
            leader,
        )

    @staticmethod
    def _states(rows: list[dict[str, Any]]) -> dict[str, str]:
        return {row["Member"]: row["State"] for row in rows}

    def _until(self, what: str, holds: Callable[[list[dict[str, Any]]], bool], leader: str) -> None:
        def so() -> bool:
            if self.value("leader") != leader or self.value("initialize") in (None, ""):
                return False
            rows = json.loads(self.patronictl("list", self.scope(), "-f", "json"))
            return holds(rows)

        try:
            wait_for(what, so, timeout=PATRONI_S, every=0.3)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def ours(self, command: str, name: str) -> Finished:
        """`pgregent adopt` or `release` on this member's host."""
        done = subprocess.run(
            [*COMMAND, command, str(self.files[name])],
            cwd=self.base / "nodes" / name,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def follow_events(self) -> None:
        """Read what the agents tell from now on."""
        follow = ["tail", "-n", "+1", "-q", "-F", *map(self._events_file, self.members)]
        self._spawn("tail", follow, stdout=subprocess.PIPE)
        stream = self._processes["tail"].stdout
        assert stream
        self.events = Events(stream)
        self._streams.append(self.events)

    def query(self, name: str, sql: str) -> list[tuple[Any, ...]]:
        """Rows of one member's server."""
        with psycopg.connect(self.direct(name), connect_timeout=5) as conn:
            return conn.execute(sql).fetchall()  # pyright: ignore

    def direct(self, name: str) -> str:
        """Return the connection string for one member."""
        member = self.members[name]
        return self.with_password(host=HOST, port=member.port, target_session_attrs="any")
