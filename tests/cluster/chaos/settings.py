"""What a chaos cluster is made with: drawn at random, and an agent's YAML file for each node."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.chaos.dcs import DCS

PASSWORD = "chaos"
REPLICATION_PASSWORD = "rep-chaos"
SCOPE = "chaos"
PORT = 5432
REST_PORT = 8008
HOLD_S = 15.0
_SUBNET = "192.0.2.0/24"


@dataclass(frozen=True, slots=True)
class Settings:
    """How many of what, and the settings that are worth varying."""

    nodes: int = 3
    dcs: str = "zookeeper"
    dcs_servers: int = 1
    count: int = 1
    """synchronous_node_count"""
    strict: bool = False
    suspect_after: float = 1.0
    standby_grace: float = 60.0
    use_pg_rewind: bool = True


def drawn(rng: random.Random, nodes: int | None = None, dcs: str | None = None) -> Settings:
    """Return settings drawn at random, but for the number of nodes and the DCS that are given."""
    nodes = nodes or rng.choice((3, 3, 5))
    return Settings(
        nodes=nodes,
        count=rng.choice((2, 2, 2, 1)) if nodes == 5 else 1,
        dcs=dcs or rng.choice(("zookeeper", "zookeeper", "etcd")),
        dcs_servers=rng.choice((1, 3)),
        strict=rng.random() < 0.3,
        suspect_after=rng.choice((0.5, 1.0, 1.0, 2.0)),
        standby_grace=rng.choice((1.0, 5.0, 60.0)),
        use_pg_rewind=rng.random() < 0.85,
    )


def agent_yaml(
    settings: Settings,
    *,
    name: str,
    nodes: Mapping[str, str],
    dcs_servers: Sequence[str],
    place: Path,
    bin_dir: Path,
) -> str:
    """Return the file of one node; `nodes` and `dcs_servers` are addresses, `place` its disk."""
    address, dcs = nodes[name], DCS[settings.dcs]

    def listening(port: int) -> dict[str, str]:
        return {"listen": f"{address}:{port}", "connect_address": f"{address}:{port}"}

    content: dict[str, Any] = {
        "scope": SCOPE,
        "name": name,
        "restapi": listening(REST_PORT),
        dcs.section: {"hosts": [f"{server}:{dcs.port}" for server in dcs_servers]},
        "bootstrap": {"dcs": _dynamic(settings)},
        "postgresql": {
            **listening(PORT),
            "data_dir": str(place / "data"),
            "bin_dir": str(bin_dir),
            "authentication": {
                "superuser": {"username": "postgres", "password": PASSWORD},
                "replication": {"username": "replicator", "password": REPLICATION_PASSWORD},
            },
            "parameters": {"unix_socket_directories": "", "shared_buffers": "32MB"},
            "pg_hba": [
                f"host all all {_SUBNET} scram-sha-256",
                f"host replication replicator {_SUBNET} scram-sha-256",
            ],
        },
        "pgregent": {
            "hold_timeout": HOLD_S,
            "suspect_after": settings.suspect_after,
            "standby_grace": settings.standby_grace,
            "peers": {n: f"{a}:{REST_PORT}" for n, a in nodes.items() if n != name},
        },
        "log": {"level": "debug"},
    }
    return yaml.safe_dump(content, sort_keys=False)


def _dynamic(settings: Settings) -> dict[str, Any]:
    return {
        "synchronous_mode": "quorum",
        "synchronous_mode_strict": settings.strict,
        "synchronous_node_count": settings.count,
        "postgresql": {
            "use_pg_rewind": settings.use_pg_rewind,
            "use_slots": True,
            "parameters": {
                "max_connections": 100,
                "max_wal_senders": 20,
                "max_replication_slots": 20,
                "max_wal_size": "256MB",
                "wal_keep_size": "64MB",
                "max_slot_wal_keep_size": "512MB",
            },
        },
    }
