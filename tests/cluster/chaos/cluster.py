"""A cluster as on machines of its own: nodes, DCS servers and clients on hosts of one network.

This process and all clients are on the host `client`, beside HAProxy and the gate.
"""

import asyncio
import shutil
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo

from pgregent.cli.cluster_dir import ClusterDir, Node, Server, save_cluster, write_file
from pgregent.cli.statuses import Statuses, fetch_statuses
from tests.cluster.chaos import net
from tests.cluster.chaos.dcs import DCS
from tests.cluster.chaos.disks import Disk, make_base, remove_base, thaw_below
from tests.cluster.chaos.services import Service, Services
from tests.cluster.chaos.settings import (
    HOLD_S,
    PASSWORD,
    PORT,
    REPLICATION_PASSWORD,
    REST_PORT,
    SCOPE,
    Settings,
    agent_yaml,
)
from tests.cluster.command import COMMAND, Finished, run_cli
from tests.cluster.nodes import Member, NodeProcesses, Nodes
from tests.cluster.plain import own
from tests.cluster.processes import alive, command_line

CLIENT = "client"
GATE = "gate"
HAPROXY = "haproxy"
_AGENT = Path(__file__).with_name("hooked_agent.py")
_PORTS = {HAPROXY: (6432, 6433), GATE: (7432, 7433)}
_FIRST_RELAYED = 9000


class ChaosCluster(Nodes):
    """Use as a context manager, in the main thread.

    Somebody has to call services.look() every so often: that restarts what has ended.
    """

    def __init__(self, bin_dir: Path, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.bin_dir = bin_dir
        self.base = self.dir = make_base()
        self.net = net.Net()
        self.services = Services()
        self.disks: dict[str, Disk] = {}
        self._dcs = DCS[settings.dcs]
        self.dcs_servers = [f"dcs{number}" for number in range(1, settings.dcs_servers + 1)]
        self.names = [f"n{number}" for number in range(1, settings.nodes + 1)]
        self.dsn = self._entry(HAPROXY)

    def _entry(self, entry: str, read_only: bool = False) -> str:
        return self.with_password(host="127.0.0.1", port=_PORTS[entry][read_only])

    def with_password(self, **changed: Any) -> str:
        """Return a connection string of the superuser."""
        parts: dict[str, Any] = {"user": "postgres", "password": PASSWORD, "dbname": "postgres"}
        return make_conninfo(**{**parts, "sslmode": "disable", **changed})

    def entries(self, read_only: bool = False) -> dict[str, str]:
        """Return the connection strings of all entry points."""
        return {entry: self._entry(entry, read_only) for entry in _PORTS}

    def other_entries(self) -> dict[str, str]:
        """Return the gate's."""
        return {GATE: self._entry(GATE)}

    # --- start and end -------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything; wait_redundant() says when clients can write."""
        self.net.__enter__()
        net.enter(self.net.add(CLIENT, 100))
        for number, name in enumerate(self.dcs_servers):
            self.net.add(name, 31 + number)
        for number, name in enumerate(self.names):
            self._make_node(name, 11 + number)
        for name in self.dcs_servers:
            self.services.add(name, self._dcs_server(name))
        for name in self.names:
            self._write_file(name)
            self.services.add(name, self._agent(name))
        self._start_haproxy()
        self._start_gate()

    def _make_node(self, name: str, number: int) -> None:
        host = self.net.add(name, number)
        place = self.base / "nodes" / name
        image = self.base / f"{name}.img"
        self.disks[name] = Disk(image, place)
        self.disks[name].mount()
        own(place)
        api_url = f"http://{host.address}:{REST_PORT}"
        self.members[name] = Member(name, place / "data", PORT, api_url, host.address)

    def _file(self, name: str) -> Path:
        return self.base / f"{name}.yml"

    def _write_file(self, name: str) -> None:
        text = agent_yaml(
            self.settings,
            name=name,
            nodes={n: m.host for n, m in self.members.items()},
            dcs_servers=[self.net.hosts[server].address for server in self.dcs_servers],
            place=self.disks[name].place,
            bin_dir=self.bin_dir,
        )
        write_file(self._file(name), text)

    def _service(self, name: str, host: str, command: Iterable[str], **env: str) -> Service:
        return Service(self.net.hosts[host], [*command], self.base / f"{name}.log", env)

    def _agent(self, name: str) -> Service:
        command = [sys.executable, str(_AGENT), "agent", str(self._file(name))]
        return self._service(name, name, command, CHAOS_DIR=str(self.base), CHAOS_NODE=name)

    def _dcs_server(self, name: str) -> Service:
        addresses = [self.net.hosts[server].address for server in self.dcs_servers]
        number = self.dcs_servers.index(name)
        return self._service(name, name, self._dcs.command(self.base / name, number, addresses))

    def _start_haproxy(self) -> None:
        files = [str(self._file(name)) for name in self.names]
        port, ro_port = map(str, _PORTS[HAPROXY])
        admin = str(self.base / "admin.sock")
        config = str(self.base / "haproxy.cfg")
        done = run_cli(
            *("haproxy", "config", *files, "--port", port, "--ro-port", ro_port),
            *("--stats-port", "7000", "--check-port", "7001", "--socket", admin, "-o", config),
        )
        assert done.code == 0, done.message
        binary = shutil.which("haproxy") or "/usr/sbin/haproxy"
        self.services.add(HAPROXY, self._service(HAPROXY, CLIENT, [binary, "-db", "-f", config]))
        watch = [*COMMAND, "haproxy", "watch", *files, "--socket", admin]
        self.services.add("watch", self._service("watch", CLIENT, watch))

    def _start_gate(self) -> None:
        """The gate asks agents of one machine only: the agents' ports are shown to it there."""
        relayed = {name: _FIRST_RELAYED + n for n, name in enumerate(self.names)}
        folder = self.base / "gate"
        (folder / "secrets").mkdir(parents=True)
        write_file(folder / "secrets" / "replication", REPLICATION_PASSWORD)
        nodes = tuple(Node(name, PORT, port) for name, port in relayed.items())
        server = Server("explicit", str(self.bin_dir), "15", str(self.bin_dir))
        port, ro_port = _PORTS[GATE]
        save_cluster(ClusterDir(folder, SCOPE, nodes, port, ro_port, server, HOLD_S, time.time()))
        net.run(
            *self.net.hosts[CLIENT].prefix,
            *("sysctl", "-q", "-w", "net.ipv4.conf.all.route_localnet=1"),
        )
        forward = "\n".join(
            f"    ip daddr 127.0.0.1 tcp dport {port} dnat to {self.members[name].host}:{REST_PORT}"
            for name, port in relayed.items()
        )
        self.net.nft(CLIENT, _NAT.replace("FORWARD", forward))
        self.services.add(GATE, self._service(GATE, CLIENT, [*COMMAND, "gate", str(folder)]))

    def close(self) -> None:
        """Kill everything, prove that nothing is left, and remove what was made."""
        thaw_below(self.base)
        self.net.__exit__()
        self.services.reap()
        net.leave()
        remove_base(self.base)

    # --- what is where -------------------------------------------------------------------------

    def node(self, name: str) -> NodeProcesses:
        """Return the pids of a member, as /proc shows them."""
        found = self.all_processes_of(name)
        guards = [pid for pid in found if any("guard.py" in a for a in command_line(pid)[:5])]
        pid_file = self.members[name].data_dir / "postmaster.pid"
        with suppress(OSError, ValueError, IndexError):
            postmaster = int(pid_file.read_text().split()[0])
            agent = self.services.by_name[name].pid
            alive_one = postmaster if postmaster in found and alive(postmaster) else None
            return NodeProcesses(agent, guards[0] if guards else None, alive_one)
        return NodeProcesses(self.services.by_name[name].pid, guards[0] if guards else None, None)

    def all_processes_of(self, name: str) -> set[int]:
        """Return everything that runs on the member's host."""
        return {pid for pid in self.net.processes(name) if alive(pid)}

    def cli(self, *arguments: str, timeout: float = 30.0) -> Finished:
        """Run a command of the product on the client's host."""
        return run_cli(*arguments, "-c", str(self._file(self.names[0])), timeout=timeout)

    def logs(self) -> Iterable[Path]:
        """Return the files that tell what happened."""
        return [*sorted(self.base.glob("*.log")), *sorted(self.base.glob("nodes/*/log/*"))]

    def dcs_leaders(self) -> list[str]:
        """Return the DCS server that leads, if one says so; more than one while they are apart."""
        return [name for name in self.dcs_servers if self._dcs.leads(self.net.hosts[name].address)]

    # --- health --------------------------------------------------------------------------------

    async def statuses(self) -> Statuses:
        """Return what every agent says."""
        return await fetch_statuses({n: (m.host, REST_PORT) for n, m in self.members.items()})

    async def why_not_redundant(self) -> str:
        """Return why not every fault of one node would be survived, or ""."""
        found = await self.statuses()
        best = found.best
        if best is None or found.silent:
            return f"agents that do not answer: {found.silent}"
        if not best["serving"]:
            return f"no primary serves: {best['why']}"
        states = {m["name"]: m for m in best["members"]}
        timelines = {m["timeline"] for m in states.values()}
        for name, member in states.items():
            expected = "running" if name == best["primary"] else "streaming"
            if member["state"] != expected:
                return f"{name} is {member['state']}, not {expected}: {member['why']}"
        if len(states) != len(self.names) or len(timelines) != 1:
            return f"not all on one timeline: {states}"
        register = best["register"]
        if len(register["rules"]) != 1 or register["electing"]:
            return f"not settled: {register['rules']}"
        rule = register["rules"][-1]
        if (rule["k"], len(rule["members"])) != (self.settings.count, len(self.names) - 1):
            return f"not the rule that was asked for: {rule}"
        if not best["dcs"]["ok"]:
            return f"the DCS: {best['dcs']['why']}"
        sentence = str(best["if_dies"][best["primary"]])
        return "" if "would take over" in sentence else sentence

    async def wait_redundant(self, timeout: float) -> str:
        """Wait until the cluster is whole, restarting what ends; return the primary."""
        deadline = time.monotonic() + timeout
        why = ""
        while time.monotonic() < deadline:
            self.services.look()
            why = await self.why_not_redundant()
            if not why:
                best = (await self.statuses()).best
                assert best
                return str(best["primary"])
            await asyncio.sleep(0.2)
        raise AssertionError(f"not whole within {timeout:g} s: {why}")


_NAT = """\
table ip nat {
  chain output {
    type nat hook output priority -100;
FORWARD
  }
  chain post {
    type nat hook postrouting priority 100;
    ip daddr 192.0.2.0/24 ip saddr 127.0.0.1 masquerade
  }
}
"""
