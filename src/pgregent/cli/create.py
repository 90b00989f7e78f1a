"""Make what a cluster's directory holds before its agents run. Each step can be repeated."""

import hashlib
import os
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pgregent.adapters.postgres.render import Owner
from pgregent.adapters.postgres.tools import reachable_bin_dir, service_owner
from pgregent.cli.agent_file import agent_yaml, set_bin_dir
from pgregent.cli.cluster_dir import APP, HOST, ClusterDir, save_cluster, write_file
from pgregent.config.load import load_config
from pgregent.core.errors import Refused

ELSEWHERE = Path("/var/lib/pgregent")
_PASSWORD_BYTES = 24
_CHECK_TIMEOUT_S = 10


def make_cluster(cluster: ClusterDir) -> ClusterDir:
    """Fill the (locked) directory, cluster.json first."""
    # Others may pass through to the data directories, and read nothing.
    cluster.path.chmod(0o711 if service_owner() else 0o700)
    save_cluster(cluster)
    return complete_cluster(cluster)


def complete_cluster(cluster: ClusterDir) -> ClusterDir:
    """Make what is missing, after a crash in the middle too. Returns the cluster as it now is."""
    owner = service_owner()
    _place_nodes(cluster, owner)
    run_dir = reachable_bin_dir(Path(cluster.server.bin_dir), owner, cluster.nodes_dir.parent)
    if str(run_dir) != cluster.server.run_dir:
        cluster = replace(cluster, server=replace(cluster.server, run_dir=str(run_dir)))
        save_cluster(cluster)
    (cluster.path / "log").mkdir(mode=0o700, exist_ok=True)
    _make_secrets(cluster)
    for node in cluster.nodes:
        _make_node(cluster, node.name, owner)
    holds = {node.name: _checked_file(cluster, node.name) for node in cluster.nodes}
    return _with_hold_timeout(cluster, holds)


def can_enter(owner: Owner, directory: Path) -> bool:
    """Whether that user can reach what is inside the directory (every folder above included)."""
    checked = subprocess.run(
        ["/bin/sh", "-c", 'cd "$1"', "sh", str(directory)],
        user=owner.uid,
        group=owner.gid,
        extra_groups=[],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_CHECK_TIMEOUT_S,
        check=False,
    )
    return checked.returncode == 0


def _place_nodes(cluster: ClusterDir, owner: Owner | None) -> None:
    nodes = cluster.path / "nodes"
    if nodes.is_dir():
        return
    if nodes.is_symlink():
        raise Refused(f"{nodes} leads to {nodes.readlink()}, which is gone: restore it")
    if owner is None or can_enter(owner, cluster.path):
        nodes.mkdir(mode=0o711)
        return
    # The time of creation keeps a new cluster from meeting an old one's data.
    mark = hashlib.sha256(f"{cluster.path}\0{cluster.created}".encode()).hexdigest()[:12]
    real = ELSEWHERE / mark / "nodes"
    for directory in (ELSEWHERE, real.parent, real):
        directory.mkdir(mode=0o711, exist_ok=True)
    write_file(real.parent / "directory", f"{cluster.path}\n")
    if not can_enter(owner, real):
        raise Refused(
            f"user id {owner.uid}, which PostgreSQL runs as under root, can enter neither"
            f" {cluster.path} nor {real}: name a directory that it can enter"
        )
    nodes.symlink_to(real)


def _make_secrets(cluster: ClusterDir) -> None:
    directory = cluster.path / "secrets"
    directory.mkdir(mode=0o700, exist_ok=True)
    used = any(
        cluster.data_dir(node.name).joinpath("PG_VERSION").exists() for node in cluster.nodes
    )
    for name in ("superuser", "replication", APP, "restapi"):
        file = cluster.secret_file(name)
        if file.exists():
            continue
        if used and name != "restapi":
            raise Refused(f"{file} is missing, and the databases know it: restore it")
        write_file(file, secrets.token_urlsafe(_PASSWORD_BYTES) + "\n")
    password = cluster.secret(APP)
    ports = (cluster.entry_port, cluster.entry_ro_port)
    lines = "".join(f"{HOST}:{port}:*:{APP}:{password}\n" for port in ports)
    pass_file = cluster.secret_file("app.pgpass")
    if not pass_file.exists() or pass_file.read_text() != lines:
        write_file(pass_file, lines)


def _make_node(cluster: ClusterDir, name: str, owner: Owner | None) -> None:
    # Root keeps the node's directory: who owns it could replace agent.yml, which root obeys.
    cluster.node_dir(name).mkdir(mode=0o711, exist_ok=True)
    for directory in (cluster.log_dir(name), cluster.data_dir(name)):
        if not directory.exists():
            directory.mkdir(mode=0o700)
            if owner is not None:
                os.chown(directory, owner.uid, owner.gid)
    cluster.state_dir(name).mkdir(mode=0o711, exist_ok=True)
    file = cluster.agent_file(name)
    if not file.exists():
        write_file(file, agent_yaml(cluster, name))
    elif (text := file.read_text()) != (moved := set_bin_dir(text, cluster.server.run_dir)):
        write_file(file, moved)


def _checked_file(cluster: ClusterDir, name: str) -> float:
    """Check that its agent.yml is of this cluster; returns its pgregent.hold_timeout."""
    file, node = cluster.agent_file(name), cluster.node(name)
    config = load_config(file)
    pairs: list[tuple[str, object, object]] = [
        ("scope", config.scope, cluster.scope),
        ("name", config.name, name),
        ("restapi.listen", config.restapi.listen.port, node.rest_port),
        ("postgresql.listen", config.postgresql.listen.port, node.port),
        ("postgresql.data_dir", config.postgresql.data_dir, cluster.data_dir(name)),
        ("local.path", config.local and config.local.path, cluster.dcs_file),
    ]
    for key, found, expected in pairs:
        if found != expected:
            raise Refused(
                f"{file}: {key} is {found}, but {expected} in {cluster.path}: put that back"
                " (was the directory moved or copied?)"
            )
    if config.restapi.certfile is not None:
        raise Refused(
            f"{file}: restapi.certfile: the gate and the commands of `pgregent up` reach its "
            "agents on 127.0.0.1 without TLS: remove it, or run the agents with `pgregent agent`"
        )
    return config.pgregent.hold_timeout


def _with_hold_timeout(cluster: ClusterDir, holds: Mapping[str, float]) -> ClusterDir:
    """The gate is one, and its setting stands in every agent.yml: where the users change it."""
    first, *others = holds
    for name in others:
        if holds[name] != holds[first]:
            raise Refused(
                f"{cluster.agent_file(name)}: pgregent.hold_timeout is {holds[name]:g}, but "
                f"{holds[first]:g} in {cluster.agent_file(first)}: give the same in all of them"
            )
    if holds[first] != cluster.hold_timeout:
        cluster = replace(cluster, hold_timeout=holds[first])
        save_cluster(cluster)
    return cluster
