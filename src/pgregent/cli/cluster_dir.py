"""The directory of a cluster on one machine: what is where, and cluster.json.

    DIR/cluster.json  dcs.sqlite  up.lock  gate.lock  log/gate.log
        secrets/{superuser,replication,restapi,app,app.pgpass}
        nodes/NAME/{agent.yml,data,data.pgregent,log}

`nodes` may be a link, where PostgreSQL's user cannot enter DIR.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pgregent.config.suggest import did_you_mean
from pgregent.core.errors import Refused

FORMAT = 1
DEFAULT_DIR = "pgregent-data"
HOST = "127.0.0.1"
APP = "app"
SUPERUSER = "postgres"
REPLICATION_USER = "replicator"


@dataclass(frozen=True, slots=True)
class Node:
    """One member: its PostgreSQL's port and its agent's."""

    name: str
    port: int
    rest_port: int

    @property
    def api_url(self) -> str:
        """The agent's REST address."""
        return f"http://{HOST}:{self.rest_port}"


@dataclass(frozen=True, slots=True)
class Server:
    """Which PostgreSQL: `source` is "explicit", "wheel" or "system"; `version` as in "15.20".

    `bin_dir` is where it was found; `run_dir` is that or a copy that PostgreSQL's user can run.
    """

    source: str
    bin_dir: str
    version: str
    run_dir: str


@dataclass(frozen=True, slots=True)
class ClusterDir:
    """A cluster's directory (absolute) and what its cluster.json says."""

    path: Path
    scope: str
    nodes: tuple[Node, ...]
    entry_port: int
    entry_ro_port: int
    server: Server
    hold_timeout: float
    created: float

    @property
    def nodes_dir(self) -> Path:
        """The real directory of the nodes: what PostgreSQL's user can reach."""
        return (self.path / "nodes").resolve()

    def node_dir(self, name: str) -> Path:
        """The directory of one node."""
        return self.nodes_dir / name

    def agent_file(self, name: str) -> Path:
        """The agent's configuration."""
        return self.node_dir(name) / "agent.yml"

    def data_dir(self, name: str) -> Path:
        """PostgreSQL's data directory."""
        return self.node_dir(name) / "data"

    def state_dir(self, name: str) -> Path:
        """What the agent remembers, beside the data directory."""
        return self.node_dir(name) / "data.pgregent"

    def log_dir(self, name: str) -> Path:
        """The logs of one node."""
        return self.node_dir(name) / "log"

    def agent_lock(self, name: str) -> Path:
        """Held by the living agent; contains its pid."""
        return self.state_dir(name) / "agent.lock"

    def events_file(self, name: str) -> Path:
        """The agent's events, a JSON object a line."""
        return self.state_dir(name) / "events.jsonl"

    @property
    def dcs_file(self) -> Path:
        """The store that the agents share."""
        return self.path / "dcs.sqlite"

    @property
    def gate_lock(self) -> Path:
        """Held by the living entry point; contains its pid."""
        return self.path / "gate.lock"

    @property
    def gate_log(self) -> Path:
        """The entry point's log."""
        return self.path / "log" / "gate.log"

    def secret_file(self, name: str) -> Path:
        """The file of one password, or of `app.pgpass`."""
        return self.path / "secrets" / name

    def secret(self, name: str) -> str:
        """Read the password of "superuser", "replication", "restapi" or "app"."""
        path = self.secret_file(name)
        try:
            return path.read_text().strip()
        except OSError as error:
            raise Refused(f"cannot read the password in {path}: {error.strerror}") from None

    def dsn(self, read_only: bool = False, show_password: bool = False) -> str:
        """The application's connection string."""
        port = self.entry_ro_port if read_only else self.entry_port
        start = f"host={HOST} port={port} dbname={APP} user={APP}"
        if show_password:
            return f"{start} password={self.secret(APP)}"
        return f"{start} passfile={_quoted(str(self.secret_file('app.pgpass')))}"

    @property
    def agents(self) -> Mapping[str, tuple[str, int]]:
        """Each agent's address by its node's name."""
        return {node.name: (HOST, node.rest_port) for node in self.nodes}

    def node(self, name: str) -> Node:
        """The node of that name. Raises Refused."""
        for node in self.nodes:
            if node.name == name:
                return node
        names = [node.name for node in self.nodes]
        hint = did_you_mean(name, names)
        raise Refused(f"{self.path} has no node {name!r}, only {', '.join(names)}{hint}")


def up_lock(path: Path) -> Path:
    """Held by the `up` of that directory."""
    return path / "up.lock"


def cluster_file(path: Path) -> Path:
    """What makes a directory a cluster's."""
    return path / "cluster.json"


def _quoted(value: str) -> str:
    if value and not any(c in " '\\" for c in value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def resolve_dir(argument: str | None, option: str | None) -> Path:
    """The directory that is meant: the argument, else -d, $PGREGENT_DIR, ./pgregent-data."""
    if argument and option and Path(argument).resolve() != Path(option).resolve():
        raise Refused(f"two directories: {argument} and -d {option}; give one")
    chosen = argument or option or os.environ.get("PGREGENT_DIR") or DEFAULT_DIR
    return Path(chosen).expanduser().resolve()


def open_cluster(path: Path) -> ClusterDir:
    """Read the cluster.json of an existing cluster. Raises Refused."""
    file = cluster_file(path)
    try:
        content = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        what = "has no cluster.json" if path.exists() else "does not exist"
        raise Refused(
            f"{path} {what}: name a cluster's directory with -d, or make one with"
            f" `pgregent up {path}`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"cannot read {file}: {error}") from None
    return parse_cluster(path, content)


def parse_cluster(path: Path, content: str) -> ClusterDir:
    """Check and read the text of a cluster.json. Raises Refused."""
    file = cluster_file(path)
    try:
        data: Any = json.loads(content)
        found = data["format"]
        if found != FORMAT:
            raise Refused(
                f"{file} has format {found!r}, this pgregent knows format {FORMAT}:"
                " use the version that made it, or another directory"
            )
        return ClusterDir(
            path=path,
            scope=str(data["scope"]),
            nodes=tuple(
                Node(str(n["name"]), int(n["port"]), int(n["rest_port"])) for n in data["nodes"]
            ),
            entry_port=int(data["entry"]["port"]),
            entry_ro_port=int(data["entry"]["port_ro"]),
            server=Server(
                *(
                    str(data["postgresql"][key])
                    for key in ("source", "bin_dir", "version", "run_dir")
                )
            ),
            hold_timeout=float(data["hold_timeout"]),
            created=float(data["created"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            f"{file} is damaged or not pgregent's ({type(error).__name__}: {error}):"
            " restore it, or use another directory"
        ) from None


def save_cluster(cluster: ClusterDir) -> None:
    """Write cluster.json atomically and durably."""
    data = {
        "format": FORMAT,
        "scope": cluster.scope,
        "nodes": [asdict(node) for node in cluster.nodes],
        "entry": {"port": cluster.entry_port, "port_ro": cluster.entry_ro_port},
        "postgresql": asdict(cluster.server),
        "hold_timeout": cluster.hold_timeout,
        "created": cluster.created,
    }
    write_file(cluster_file(cluster.path), json.dumps(data, indent=2) + "\n", 0o644)


def write_file(path: Path, content: str, mode: int = 0o600) -> None:
    """Replace the file at once, fsynced, with its mode from the first byte on."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        new.rename(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
