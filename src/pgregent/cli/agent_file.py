"""The agent.yml that `up` writes for each node; from then on it is the user's to edit."""

import re
from typing import Any

import yaml

from pgregent.cli.cluster_dir import HOST, REPLICATION_USER, SUPERUSER, ClusterDir

REST_USER = "admin"
_HEADER = "# Made by `pgregent up`, which keeps your changes; ports and paths are cluster.json's.\n"


def agent_yaml(cluster: ClusterDir, name: str) -> str:
    """The text of one node's agent.yml (it holds passwords: keep it 0600)."""
    node = cluster.node(name)
    content: dict[str, Any] = {
        "scope": cluster.scope,
        "name": name,
        "restapi": {
            **_listening(node.rest_port),
            # Whoever may change parameters runs programs as PostgreSQL's user, and every user of
            # the machine reaches 127.0.0.1.
            "authentication": _role(REST_USER, cluster.secret("restapi")),
        },
        "local": {"path": str(cluster.dcs_file)},
        "bootstrap": {
            "dcs": {
                "synchronous_mode": "quorum",
                "synchronous_node_count": 1,
                "postgresql": {
                    "use_pg_rewind": True,
                    "use_slots": True,
                    "parameters": {
                        "max_connections": 200,
                        "max_wal_senders": 20,
                        "max_replication_slots": 20,
                        "wal_keep_size": "128MB",
                        "max_slot_wal_keep_size": "1GB",
                    },
                },
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
        },
        "postgresql": {
            **_listening(node.port),
            "data_dir": str(cluster.data_dir(name)),
            "bin_dir": cluster.server.run_dir,
            "authentication": {
                "superuser": _role(SUPERUSER, cluster.secret("superuser")),
                "replication": _role(REPLICATION_USER, cluster.secret("replication")),
            },
            "parameters": {"unix_socket_directories": ""},
            "pg_hba": [
                f"host all all {HOST}/32 scram-sha-256",
                f"host replication {REPLICATION_USER} {HOST}/32 scram-sha-256",
            ],
        },
        "pgregent": {
            "hold_timeout": cluster.hold_timeout,
            "peers": {n.name: f"{HOST}:{n.rest_port}" for n in cluster.nodes if n.name != name},
        },
    }
    return _HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def set_bin_dir(text: str, bin_dir: str) -> str:
    """The text of an agent.yml with another bin_dir, and nothing else changed."""
    line = yaml.safe_dump({"bin_dir": bin_dir}, width=10_000).strip()
    return re.sub(r"(?m)^(\s+)bin_dir:.*$", lambda found: found[1] + line, text)


def _listening(port: int) -> dict[str, str]:
    return {"listen": f"{HOST}:{port}", "connect_address": f"{HOST}:{port}"}


def _role(username: str, password: str) -> dict[str, str]:
    return {"username": username, "password": password}
