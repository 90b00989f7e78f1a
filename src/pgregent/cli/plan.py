"""What `up` was asked for, checked against the machine and the directory; changes nothing."""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from pgregent.adapters.postgres.tools import WHEEL, find_bin_dir, postgres_version
from pgregent.cli import ports, processes
from pgregent.cli.cluster_dir import ClusterDir, Node, Server, cluster_file, open_cluster
from pgregent.core.errors import Refused

NODES_MAX = 7
NODES_DEFAULT = 3
_ENTRY_DEFAULT, _PORT_DEFAULT, _REST_DEFAULT = 5435, 5441, 8008
_HOLD_TIMEOUT_S = 15.0
# A fresh data directory is 40-60 MB, with WAL segments to come.
_NODE_BYTES_MIN = 200 << 20


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options of `up`; None was not given, port 0 means a free one."""

    nodes: int | None = None
    bin_dir: Path | None = None
    entry_port: int | None = None
    port_base: int | None = None
    rest_port_base: int | None = None
    scope: str | None = None


def find_cluster(path: Path) -> ClusterDir | None:
    """The cluster in that directory, or None where one may be made. Raises Refused."""
    if cluster_file(path).exists():
        return open_cluster(path)
    if not path.exists():
        return None
    if not path.is_dir():
        raise Refused(f"{path} is not a directory")
    foreign = sorted(p.name for p in path.iterdir() if p.name != "up.lock")
    if foreign:
        raise Refused(
            f"{path} is not empty and has no cluster.json, so it is not pgregent's"
            f" (there is {foreign[0]!r}): name another directory"
        )
    return None


def check_nodes(wishes: Wishes) -> None:
    """Raise Refused for a number of nodes outside of 1 to 7."""
    if wishes.nodes is not None and not 1 <= wishes.nodes <= NODES_MAX:
        raise Refused(f"--nodes {wishes.nodes}: expected 1 to {NODES_MAX}")


def choose_server(wish: Path | None) -> Server:
    """The PostgreSQL of a new cluster: `wish`, else the wheel's, else the system's newest."""
    bin_dir = find_bin_dir(wish, wheel_first=True)
    source = "explicit" if wish else "wheel" if WHEEL in bin_dir.parts else "system"
    return Server(source, str(bin_dir), str(postgres_version(bin_dir)), str(bin_dir))


def find_server_again(cluster: ClusterDir) -> ClusterDir:
    """The cluster with its PostgreSQL where it is now, of the same major version."""
    server, major = cluster.server, cluster.server.version.split(".")[0]
    wish = Path(server.bin_dir)
    if not wish.exists() and server.source != "explicit":
        wish = None
    try:
        found = choose_server(wish)
    except Refused as refused:
        raise Refused(f"{cluster.path} was made with {server.bin_dir}: {refused}") from None
    if found.version.split(".")[0] != major:
        raise Refused(
            f"{cluster.path} holds data of PostgreSQL {major}, found {found.version} in"
            f" {found.bin_dir}: put PostgreSQL {major} back to {server.bin_dir}"
        )
    return replace(cluster, server=replace(found, source=server.source, run_dir=server.run_dir))


def plan_cluster(path: Path, wishes: Wishes, server: Server) -> ClusterDir:
    """A new cluster as it will be; touches nothing. Raises Refused."""
    count = wishes.nodes or NODES_DEFAULT
    _check_disk(path, count)
    taken: set[int] = set()
    entry = _choose(2, wishes.entry_port, _ENTRY_DEFAULT, "--entry-port", taken)
    postgres = _choose(count, wishes.port_base, _PORT_DEFAULT, "--port-base", taken)
    # Somebody who wants any free port does not want 8008 to be in the way.
    rest_wish = wishes.rest_port_base if wishes.port_base != 0 else wishes.rest_port_base or 0
    rest = _choose(count, rest_wish, _REST_DEFAULT, "--rest-port-base", taken)
    names = [f"n{i}" for i in range(1, count + 1)]
    return ClusterDir(
        path=path,
        scope=wishes.scope or "pgregent",
        nodes=tuple(Node(*three) for three in zip(names, postgres, rest, strict=True)),
        entry_port=entry[0],
        entry_ro_port=entry[1],
        server=server,
        hold_timeout=_HOLD_TIMEOUT_S,
        created=time.time(),
    )


def check_resume(cluster: ClusterDir, wishes: Wishes) -> None:
    """Raise Refused for options that say something else than the directory."""
    said: list[tuple[str, object, object]] = [
        ("--nodes", wishes.nodes, len(cluster.nodes)),
        ("--entry-port", wishes.entry_port or None, cluster.entry_port),
        ("--port-base", wishes.port_base or None, cluster.nodes[0].port),
        ("--rest-port-base", wishes.rest_port_base or None, cluster.nodes[0].rest_port),
        ("--scope", wishes.scope, cluster.scope),
    ]
    if wishes.bin_dir is not None and wishes.bin_dir.resolve() != Path(cluster.server.bin_dir):
        said.append(("--bin-dir", str(wishes.bin_dir), cluster.server.bin_dir))
    wrong = [
        f"{opt} {wish} (it has {have})" for opt, wish, have in said if wish not in (None, have)
    ]
    if wrong:
        raise Refused(
            f"{cluster.path} holds a cluster made with other options: {', '.join(wrong)};"
            " leave them out to resume it, or name another directory"
        )


def check_ports(cluster: ClusterDir) -> None:
    """Raise Refused if a port is taken by anybody but the cluster's own living processes."""
    problems: list[str] = []
    if processes.gate_pid(cluster) is None:
        problems += _taken("the entry point", cluster.entry_port)
        problems += _taken("the read-only entry point", cluster.entry_ro_port)
    for node in cluster.nodes:
        living = processes.member_processes(cluster, node.name)
        if living.agent is None:
            problems += _taken(f"{node.name}'s REST", node.rest_port)
        if living.agent is None and living.postmaster is None and living.guard is None:
            problems += _taken(f"{node.name}'s PostgreSQL", node.port)
    if problems:
        raise Refused(
            "; ".join(problems) + ": stop those processes, or make the cluster with"
            " --entry-port 0 --port-base 0 (any free ports)"
        )


def _taken(what: str, port: int) -> list[str]:
    if ports.is_free(port):
        return []
    owner = ports.owner_of(port) or "a process that cannot be seen from here"
    return [f"port {port} for {what} is taken by {owner}"]


def _choose(count: int, wish: int | None, default: int, option: str, taken: set[int]) -> list[int]:
    first = default if wish is None else wish
    if not 0 <= first <= 65535 - count:
        raise Refused(f"{option} {first}: expected 0 (any free port) or 1 to {65535 - count}")
    chosen = ports.pick_free(count, taken) if first == 0 else list(range(first, first + count))
    twice = taken.intersection(chosen)
    if twice:
        raise Refused(f"{option} {first}: port {min(twice)} would be used twice")
    taken.update(chosen)
    return chosen


def _check_disk(path: Path, count: int) -> None:
    above = next(p for p in (path, *path.parents) if p.exists())
    free, needed = shutil.disk_usage(above).free, count * _NODE_BYTES_MIN
    if free < needed:
        raise Refused(
            f"{path}: {free >> 20} MB free on the disk, {count} nodes need {needed >> 20} MB"
            " to start with: free some space, or name a directory elsewhere"
        )
