"""The seed's cluster on loopback: ZooKeeper, an agent with each of its two YAML files, HAProxy."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psycopg
import yaml
from psycopg.conninfo import make_conninfo

from pgregent.cli.cluster_dir import ClusterDir, Node, Server, save_cluster, write_file
from tests.cluster.command import COMMAND, Finished, clean_environment, run_cli
from tests.cluster.nodes import Events, Member, NodeProcesses, Nodes
from tests.cluster.plain import free_ports, make_directory, own
from tests.cluster.processes import (
    alive,
    belonging_to,
    command_line,
    kill_all_of,
    send,
    wait_for,
)
from tests.conformance.zookeeper_servers import ZookeeperServer

SEED = Path(__file__).resolve().parents[1] / "seed"
HOST = "127.0.0.1"
GATE = "gate"
FILES = ("postgres0.yml", "postgres1.yml")
_SERVICES = ("pg-master", "pg-slave")
_START_S = 60.0


def localised(text: str, changes: Mapping[str, str]) -> str:
    """Return the seed's text with only these addresses and paths replaced, each of them there."""
    absent = [old for old in changes if old not in text]
    assert not absent, f"the seed's file does not hold {absent}"
    return re.sub("|".join(map(re.escape, changes)), lambda found: changes[found[0]], text)


class Pair(Nodes):
    """Clients come through HAProxy, with our configuration and watch; with `gate`, the benchmark's
    also through the built-in gate. Nobody restarts what ends: see start_agent()."""

    def __init__(self, bin_dir: Path, *, gate: bool = False) -> None:
        super().__init__()
        self.base = self.dir = make_directory("pgregent-pair-")
        self.bin_dir = bin_dir
        self.zookeeper = ZookeeperServer(self.base / "zookeeper", {})
        ports = free_ports(10)
        self._entry, self._ro, *self._others = ports[4:]
        self.files: dict[str, Path] = {}
        self._rest: dict[str, int] = {}
        self._make_node(0, ports[0], ports[1])
        self._make_node(1, ports[2], ports[3])
        self._with_gate = gate
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.dsn = self._dsn(self._entry)

    def _make_node(self, number: int, port: int, rest: int) -> None:
        service, file = _SERVICES[number], FILES[number]
        text = (SEED / file).read_text()
        name = str(yaml.safe_load(text)["name"])
        node = self.base / "nodes" / name
        (node / "wal_archive").mkdir(parents=True)
        own(node)
        own(node / "wal_archive")
        changes = {
            f"{service}:8008": f"{HOST}:{rest}",
            f"{service}:5432": f"{HOST}:{port}",
            "0.0.0.0:5432": f"{HOST}:{port}",
            "zoo:2181": self.zookeeper.host,
            "/var/lib/postgresql/data": str(node),
            "/usr/lib/postgresql/15/bin": str(self.bin_dir),
            "/tmp/pgpass0": str(node / "pgpass"),
            # From the data directory: the command is in the DCS, the same for both.
            "/tmp/wal_archive": "../wal_archive",
        }
        self.files[name] = node / file
        write_file(node / file, localised(text, changes))
        self._rest[name] = rest
        self.members[name] = Member(name, node / name, port, f"http://{HOST}:{rest}", HOST)

    def _dsn(self, port: int) -> str:
        return make_conninfo(
            host=HOST, port=port, user="postgres", password="postgres", dbname="postgres"
        )

    def start(self) -> None:
        """Start everything; clients can write when it returns."""
        for name in self.members:
            state = self.base / "nodes" / name / f"{name}.pgregent"
            state.mkdir(mode=0o711)
            (state / "events.jsonl").touch()
        follow = ["tail", "-n", "+1", "-q", "-F", *map(self._events_file, self.members)]
        self._spawn("tail", follow, stdout=subprocess.PIPE)
        stream = self._processes["tail"].stdout
        assert stream
        self.events = Events(stream)
        self._streams.append(self.events)
        self.zookeeper.start()
        self.zookeeper.wait_ready()
        for name in self.members:
            self.start_agent(name)
        self._start_haproxy()
        if self._with_gate:
            self._start_gate()
        try:
            wait_for("writes through every entry point", self._serves, timeout=_START_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def _serves(self) -> bool:
        try:
            for dsn in (self.dsn, *self.other_entries().values()):
                with psycopg.connect(dsn, connect_timeout=5) as conn:
                    conn.execute("SELECT pg_current_xact_id()")
        except psycopg.Error:
            return False
        return True

    def _events_file(self, name: str) -> str:
        return f"nodes/{name}/{name}.pgregent/events.jsonl"

    def _spawn(
        self, name: str, command: Iterable[str], *, stdout: int | None = None, cwd: str = ""
    ) -> None:
        """Start a process of ours; its arguments are relative, so that it belongs to no node."""
        folder = self.base / cwd
        with (folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*command],
                cwd=folder,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log,
                start_new_session=True,
            )

    def start_agent(self, name: str) -> None:
        """Start a member's agent, as a container's start would."""
        self._spawn(name, [*COMMAND, "agent", str(self.files[name])], cwd=f"nodes/{name}")

    def stop_agents(self, names: Iterable[str], timeout: float = 30.0) -> None:
        """SIGTERM to agents at once, as `docker-compose stop` does; wait until they have ended."""
        agents = [self._processes[name] for name in names]
        for agent in agents:
            agent.send_signal(signal.SIGTERM)
        for agent in agents:
            agent.wait(timeout)

    def start_stopped(self) -> None:
        """Start every agent that does not run."""
        for name in self.members:
            if self._processes[name].poll() is not None:
                self.start_agent(name)

    def _start_haproxy(self) -> None:
        files = [str(path.relative_to(self.base)) for path in self.files.values()]
        stats, check = (str(port) for port in self._others[:2])
        socket = str(self.base / "admin.sock")
        done = run_cli(
            *("haproxy", "config", *files, "--port", str(self._entry), "--ro-port", str(self._ro)),
            *("--stats-port", stats, "--check-port", check, "--socket", socket),
            *("-o", "haproxy.cfg"),
            cwd=self.base,
        )
        assert done.code == 0, done.message
        binary = shutil.which("haproxy") or "/usr/sbin/haproxy"
        self._spawn("haproxy", [binary, "-db", "-f", "haproxy.cfg"])
        self._spawn("watch", [*COMMAND, "haproxy", "watch", *files, "--socket", socket])

    def _start_gate(self) -> None:
        """The gate runs from a cluster's directory only; this is as much of one as it reads."""
        folder = self.base / "gate"
        (folder / "secrets").mkdir(parents=True)
        write_file(folder / "secrets" / "replication", self.replication_password())
        nodes = tuple(Node(n, m.port, self._rest[n]) for n, m in self.members.items())
        server = Server("explicit", str(self.bin_dir), "15", str(self.bin_dir))
        port, ro_port = self._others[2:4]
        save_cluster(
            ClusterDir(folder, self.scope(), nodes, port, ro_port, server, 15.0, time.time())
        )
        self._spawn(GATE, [*COMMAND, "gate", "gate"])

    def _content(self) -> Any:
        return yaml.safe_load(next(iter(self.files.values())).read_text())

    def scope(self) -> str:
        """Return the cluster's name."""
        return str(self._content()["scope"])

    def replication_password(self) -> str:
        """Return the password that the cluster's key is made of."""
        return str(self._content()["postgresql"]["authentication"]["replication"]["password"])

    def other_entries(self) -> dict[str, str]:
        """Return the gate, where it runs."""
        return {GATE: self._dsn(self._others[2])} if self._with_gate else {}

    def cli(self, *arguments: str, timeout: float = 30.0) -> Finished:
        """Run a command from outside: it is told the first member's file (`-c`)."""
        return self.cli_of(next(iter(self.files)), *arguments, timeout=timeout)

    def cli_of(self, name: str, *arguments: str, timeout: float = 30.0) -> Finished:
        """Run a command of which `-c` says this member's file; `-c` goes after all names."""
        file = str(self.files[name].relative_to(self.base))
        return run_cli(*arguments, "-c", file, timeout=timeout, cwd=self.base)

    def node(self, name: str) -> NodeProcesses:
        """Return the pids of a member, as /proc shows them."""
        found = self.all_processes_of(name)
        agent = self._processes[name].pid
        guards = [pid for pid in found if _is_guard(pid)]
        pid_file = self.members[name].data_dir / "postmaster.pid"
        postmaster = self.postmaster(name) if pid_file.exists() else None
        return NodeProcesses(
            agent if alive(agent) else None,
            guards[0] if guards else None,
            postmaster if postmaster in found else None,
        )

    def all_processes_of(self, name: str) -> set[int]:
        """Return agent, guard and every process of the member's server."""
        return belonging_to(self.base / "nodes" / name)

    def unhealthy(self) -> str:
        """Return why the cluster is not whole, or ""; whole is who would survive its primary."""
        why = super().unhealthy()
        if why:
            return why
        told = json.loads(self.cli("why", "-f", "json").out)
        sentence = str(told["if_dies"][told["primary"]])
        return "" if "would take over" in sentence else sentence

    def with_password(self, **changed: Any) -> str:
        """Return the connection string, changed."""
        return make_conninfo(self.dsn, **changed)

    def logs(self) -> Iterable[Path]:
        """Return the files that tell what happened."""
        patterns = ("*.log", "nodes/*/*.log", "nodes/*/log/*")
        return [log for pattern in patterns for log in sorted(self.base.glob(pattern))]

    def close(self) -> None:
        """Kill whatever is left, prove that nothing is, and remove the directory."""
        send(belonging_to(self.base), signal.SIGCONT)
        kill_all_of(self.base)
        self.zookeeper.kill()
        for process in self._processes.values():
            process.wait(10)
        shutil.rmtree(self.base)


def _is_guard(pid: int) -> bool:
    return any("guard" in os.path.basename(word) for word in command_line(pid)[:4])
