"""Where a member's files are, and what its server is started with."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pgregent.adapters.postgres.render import Owner, Value
from pgregent.adapters.postgres.sql import Credentials

FIXED_PARAMETERS: Mapping[str, Value] = {
    "hot_standby": "on",
    "restart_after_crash": "off",
    "wal_log_hints": "on",
    "full_page_writes": "on",
    "wal_retrieve_retry_interval": "20ms",
    "logging_collector": "off",
}
"""What the protocol relies on; no configuration overrides these."""

DEFAULT_PARAMETERS: Mapping[str, Value] = {
    "wal_level": "replica",
    "max_connections": 100,
    "max_wal_senders": 10,
    "max_replication_slots": 10,
    "max_worker_processes": 8,
    "max_locks_per_transaction": 64,
    "max_prepared_transactions": 0,
    "wal_keep_size": "128MB",
    "max_slot_wal_keep_size": "1GB",
    "password_encryption": "scram-sha-256",
    "wal_receiver_timeout": "10s",
    "wal_sender_timeout": "10s",
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
    "unix_socket_directories": "",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}

DEFAULT_HBA = (
    "local all all scram-sha-256",
    "host replication all 0.0.0.0/0 scram-sha-256",
    "host replication all ::/0 scram-sha-256",
    "host all all 0.0.0.0/0 scram-sha-256",
    "host all all ::/0 scram-sha-256",
)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """A member's server. `listen_host` is what PostgreSQL binds, `host` where others reach it."""

    name: str
    data_dir: Path
    bin_dir: Path
    log_file: Path
    listen_host: str
    port: int
    superuser: Credentials
    replication: Credentials
    owner: Owner | None
    user: str | None
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    pg_hba: tuple[str, ...] = ()
    initdb: tuple[str, ...] = ()
    use_slots: bool = True
    pgpass: Path | None = None
    start_timeout: float = 300.0
    """Seconds in which a server has to answer after its start."""

    @property
    def passwords_needed(self) -> bool:
        """Whether a walreceiver without its password file surely cannot get in."""
        methods = ("scram-sha-256", "md5", "password", "reject")
        lines = (line.split("#")[0].split() for line in self.pg_hba)
        return all(any(word in methods for word in words) for words in lines if words)

    @property
    def state_dir(self) -> Path:
        """Beside the data directory, on the same file system: it survives a new container."""
        return self.data_dir.with_name(self.data_dir.name + ".pgregent")

    @property
    def passfile(self) -> Path:
        """What the walreceiver authenticates with; removed by a seal."""
        return self.pgpass or self.state_dir / "upstream.pgpass"

    @property
    def tools_passfile(self) -> Path:
        """What pg_basebackup and pg_rewind authenticate with."""
        return self.state_dir / "tools.pgpass"

    @property
    def local_host(self) -> str:
        """Where the agent itself reaches the server."""
        wildcard = ("0.0.0.0", "::", "*", "")
        return "127.0.0.1" if self.listen_host in wildcard else self.listen_host.split(",")[0]

    @property
    def socket_dir(self) -> Path:
        """Where sockets go that were meant for the data directory."""
        return self.state_dir / "socket"

    @property
    def socket_directories(self) -> str:
        """unix_socket_directories without any in the data directory: pg_rewind would try to copy
        the socket of its source from there, and fail."""
        given = str(self.parameters.get("unix_socket_directories", ""))
        directories = [d.strip() for d in given.split(",") if d.strip()]
        outside = {self._outside(d): None for d in directories}
        return ", ".join(outside)

    def _outside(self, directory: str) -> str:
        if directory.startswith("@"):
            return directory
        resolved = Path(os.path.normpath(self.data_dir / directory))
        if not resolved.is_relative_to(self.data_dir):
            return directory
        # Relative, since a socket's path has to be short; PostgreSQL works in its data directory.
        return os.path.relpath(self.socket_dir, self.data_dir)

    def all_parameters(self, cluster_name: str) -> dict[str, Value]:
        """The static part of postgresql.conf."""
        return {
            **DEFAULT_PARAMETERS,
            **self.parameters,
            **FIXED_PARAMETERS,
            "listen_addresses": self.listen_host,
            "port": self.port,
            "cluster_name": cluster_name,
            "unix_socket_directories": self.socket_directories,
        }


def slot_name(member: str) -> str:
    """The physical slot of a member: Patroni's rule, and a hash where two names would collide."""
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in member.lower())[:50]
    if plain == member:
        return plain
    return f"{plain}_{hashlib.sha256(member.encode()).hexdigest()[:8]}"
