"""Where a member's files are, and what its server is started with."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pgregent.adapters.postgres.render import (
    HBA_CONF,
    IDENT_CONF,
    POSTGRESQL_CONF,
    Owner,
    Value,
)
from pgregent.adapters.postgres.sql import Credentials, Server
from pgregent.adapters.postgres.wal import ControlData

FIXED_PARAMETERS: Mapping[str, Value] = {
    "hot_standby": "on",
    "restart_after_crash": "off",
    "wal_log_hints": "on",
    "full_page_writes": "on",
    "wal_retrieve_retry_interval": "20ms",
    "logging_collector": "off",
    "recovery_end_command": "",
    "recovery_target": "",
    "recovery_target_lsn": "",
    "recovery_target_name": "",
    "recovery_target_time": "",
    "recovery_target_xid": "",
}
"""What the protocol relies on; no configuration overrides these."""

CLUSTER_PARAMETERS: Mapping[str, Value] = {
    "wal_level": "replica",
    "max_connections": 100,
    "max_wal_senders": 10,
    "max_replication_slots": 10,
    "max_worker_processes": 8,
    "max_locks_per_transaction": 64,
    "max_prepared_transactions": 0,
    "track_commit_timestamp": "off",
    "fsync": "on",
    "synchronous_commit": "on",
}
"""Defaults of what only the configuration of the agents sets, and no file of PostgreSQL's: it has
to be the same on all members, or an acknowledgement depends on it."""

DEFAULT_PARAMETERS: Mapping[str, Value] = {
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
    pg_ident: tuple[str, ...] = ()
    config_dir: Path | None = None
    custom_conf: bytes | None = None
    """The content of a file that takes the place of postgresql.base.conf."""
    initdb: tuple[str, ...] = ()
    post_bootstrap: tuple[str, ...] = ()
    use_slots: bool = True
    permanent_slots: frozenset[str] = frozenset()
    """Physical slots of no member that are kept, too."""
    ignored_slots: frozenset[str] = frozenset()
    """Those that are left alone; "*": all."""
    rewind: Credentials | None = None
    """pg_rewind's role; None: the superuser."""
    pgpass: Path | None = None
    use_unix_socket: bool = False
    basebackup: tuple[str, ...] = ()
    stop_timeout: float = 30.0
    """Seconds in which a clean stop has to end before it is killed."""
    start_timeout: float = 300.0
    """Seconds in which a server has to answer after its start."""

    def changed_to(self, new: "ServerConfig") -> "ServerConfig":
        """With what a server that runs, and its agent, take of `new`."""
        return replace(
            self,
            parameters=new.parameters,
            pg_hba=new.pg_hba,
            pg_ident=new.pg_ident,
            custom_conf=new.custom_conf,
            use_slots=new.use_slots,
            permanent_slots=new.permanent_slots,
            ignored_slots=new.ignored_slots,
            basebackup=new.basebackup,
            stop_timeout=new.stop_timeout,
            start_timeout=new.start_timeout,
        )

    def as_started(self) -> "ServerConfig":
        """With the config_dir of the server that runs, which its agent may have been given anew
        since."""
        options = (self.data_dir / "postmaster.opts").read_text()
        named = re.search(rf'"--config_file=([^"]*)/{POSTGRESQL_CONF}"', options)
        folder = Path(named[1]) if named else self.data_dir
        same = folder == self.data_dir.absolute()
        return replace(self, config_dir=None if same else folder)

    @property
    def passwords_needed(self) -> bool:
        """Whether a walreceiver without its password file surely cannot get in."""
        if self.replication.options:
            return False  # A certificate may do.
        methods = ("scram-sha-256", "md5", "password", "reject")
        lines = (line.split("#")[0].split() for line in self.pg_hba)
        return all(any(word in methods for word in words) for words in lines if words)

    @property
    def state_dir(self) -> Path:
        """Beside the data directory, on the same file system: it survives a new container."""
        return self.data_dir.with_name(self.data_dir.name + ".pgregent")

    @property
    def conf_dir(self) -> Path:
        """Where PostgreSQL's configuration files are."""
        return self.config_dir or self.data_dir

    @property
    def conf_file(self) -> Path:
        """The one that names all others."""
        return self.conf_dir / POSTGRESQL_CONF

    @property
    def passfile(self) -> Path:
        """What the walreceiver authenticates with; removed by a seal."""
        return self.pgpass or self.state_dir / "upstream.pgpass"

    @property
    def tools_passfile(self) -> Path:
        """What pg_basebackup and pg_rewind authenticate with."""
        return self.state_dir / "tools.pgpass"

    @property
    def local(self) -> Server:
        """Where the agent itself reaches the server that runs now: it may have been started before
        its agent was told to use a socket."""
        if self.use_unix_socket and (self.socket_dir / f".s.PGSQL.{self.port}").exists():
            return Server(str(self.socket_dir), self.port)
        wildcard = ("0.0.0.0", "::", "*", "")
        host = "127.0.0.1" if self.listen_host in wildcard else self.listen_host.split(",")[0]
        return Server(host, self.port)

    @property
    def socket_dir(self) -> Path:
        """Where the agent's own socket is, and those go that were meant for the data directory."""
        return self.state_dir / "socket"

    @property
    def own_sockets(self) -> str:
        """The same as PostgreSQL is told it: from its data directory, where it works, since a
        socket's path has to be short."""
        return os.path.relpath(os.path.realpath(self.socket_dir), os.path.realpath(self.data_dir))

    @property
    def socket_directories(self) -> str:
        """unix_socket_directories without any in the data directory: pg_rewind would try to copy
        the socket of its source from there, and fail."""
        given = str(self.parameters.get("unix_socket_directories", ""))
        directories = [d.strip() for d in given.split(",") if d.strip()]
        own = [self.own_sockets] if self.use_unix_socket else []
        return ", ".join(dict.fromkeys([*map(self._outside, directories), *own]))

    def _outside(self, directory: str) -> str:
        if directory.startswith("@"):
            return directory
        resolved = Path(os.path.normpath(self.data_dir / directory))
        if not resolved.is_relative_to(self.data_dir):
            return directory
        return self.own_sockets

    @property
    def places(self) -> tuple[str, ...]:
        """The server's arguments: where its files are, whatever they say themselves."""
        found = {
            "config_file": self.conf_file,
            "data_directory": self.data_dir,
            "hba_file": self.conf_dir / HBA_CONF,
            "ident_file": self.conf_dir / IDENT_CONF,
        }
        settings = (f"--{name}={path.absolute()}" for name, path in found.items())
        return ("-D", str(self.data_dir.absolute()), *settings)

    def all_parameters(self, cluster_name: str) -> dict[str, Value]:
        """The static part of postgresql.conf, above custom_conf or the original."""
        return {
            **CLUSTER_PARAMETERS,
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


def raise_to_primarys(parameters: dict[str, Value], control: ControlData) -> None:
    """Raise what a standby needs as high as its primary had it when it wrote the WAL that is here:
    with less PostgreSQL refuses to start one. A decrease waits until the primary has it."""
    needed = {
        "max_connections": control.max_connections,
        "max_worker_processes": control.max_worker_processes,
        "max_wal_senders": control.max_wal_senders,
        "max_prepared_transactions": control.max_prepared_xacts,
        "max_locks_per_transaction": control.max_locks_per_xact,
    }
    for name, least in needed.items():
        given = str(parameters.get(name, 0))
        if given.isdigit() and int(given) < least:
            parameters[name] = least
