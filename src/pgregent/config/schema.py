"""The agent's configuration: Patroni's YAML as typed, frozen models.

Durations are plain numbers of seconds. `load.py` reads a file into an `AgentConfig` and words
the mistakes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from pgregent.config.types import (
    ABSOLUTE,
    FLAG,
    HOST_PORT,
    INITDB,
    LINES,
    NAME,
    NAMESPACE,
    PARAMETER,
    TEXT,
    WITHOUT_NULL,
    HostPort,
    choice,
    integer,
    seconds,
)

Flag = Annotated[bool, FLAG]
Text = Annotated[str, TEXT]
Name = Annotated[str, NAME]
Address = Annotated[HostPort, HOST_PORT]
AbsolutePath = Annotated[Path, ABSOLUTE]
Lines = Annotated[tuple[str, ...], LINES]
Parameters = Annotated[Mapping[str, Annotated[str, PARAMETER]], WITHOUT_NULL]


class Section(BaseModel):
    """A mapping of known keys. A known key with nothing behind it counts as absent."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        items = cast(dict[Any, Any], data)
        known = key_names(cls)
        return {k: v for k, v in items.items() if v is not None or k not in known}


def key_names(section: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """The keys a section knows, other spellings included, each with the section it holds."""
    names: dict[str, type[BaseModel] | None] = {}
    for name, info in section.model_fields.items():
        kind = info.annotation
        held = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        names[name] = held
        if isinstance(info.validation_alias, AliasChoices):
            names |= {c: held for c in info.validation_alias.choices if isinstance(c, str)}
    return names


def mistake(key: str, expected: str) -> PydanticCustomError:
    """A mistake that concerns several keys; reported at `key` of the section that raises it."""
    return PydanticCustomError("across_keys", "{expected}", {"key": key, "expected": expected})


class _Listening(Section):
    listen: Address = Field(description="the address and port to listen on")
    connect_address: Address | None = Field(default=None, description="where others reach it")

    @property
    def address(self) -> HostPort:
        """Where others connect to."""
        return self.connect_address or self.listen

    @model_validator(mode="after")
    def _is_reachable(self) -> Self:
        if self.connect_address is None and self.listen.is_wildcard:
            raise mistake("connect_address", f"an address, because listen is {self.listen}")
        if self.connect_address is not None and self.connect_address.is_wildcard:
            raise mistake("connect_address", "the one address that other members connect to")
        return self


class RestApi(_Listening):
    """The agent's own port: REST and the channel between agents."""


class Credentials(Section):
    """One role of the database."""

    username: Text = Field(description="the role's name")
    password: Annotated[SecretStr, TEXT] = Field(description="the role's password")


class Authentication(Section):
    """The roles that the agent uses."""

    superuser: Credentials = Field(description="username and password")
    replication: Credentials = Field(description="username and password")


class Postgresql(_Listening):
    """This member's PostgreSQL server."""

    data_dir: AbsolutePath = Field(description="the data directory's absolute path")
    bin_dir: AbsolutePath | None = None
    pgpass: AbsolutePath | None = None
    authentication: Authentication = Field(description="superuser and replication")
    parameters: Parameters = {}
    pg_hba: Lines = ()
    use_unix_socket: Flag = False


class DcsPostgresql(Section):
    """What the cluster's members start from."""

    use_pg_rewind: Flag = True
    use_slots: Flag = True
    parameters: Parameters = {}
    pg_hba: Lines = ()


class Dcs(Section):
    """The dynamic configuration that a new cluster starts with."""

    ttl: Annotated[float, seconds(1, 3600)] = 30
    loop_wait: Annotated[float, seconds(0.1, 3600)] = 10
    retry_timeout: Annotated[float, seconds(0.1, 3600)] = 10
    maximum_lag_on_failover: Annotated[int, integer(0, 2**62)] = 1048576
    synchronous_mode: Annotated[
        Literal["off", "on", "quorum"], choice("off", "on", "quorum", true="on", false="off")
    ] = "off"
    synchronous_mode_strict: Flag = False
    synchronous_node_count: Annotated[int, integer(1, 100)] = 1
    primary_start_timeout: Annotated[float, seconds(0, 86400)] = Field(
        default=300,
        validation_alias=AliasChoices("primary_start_timeout", "master_start_timeout"),
    )
    postgresql: DcsPostgresql = DcsPostgresql()


class Bootstrap(Section):
    """How a new cluster is made; without effect on one that exists."""

    dcs: Dcs = Dcs()
    initdb: Annotated[tuple[str, ...], INITDB] = ()
    pg_hba: Lines = ()


class Tags(Section):
    """What this member is not used for."""

    nofailover: Flag = False
    noloadbalance: Flag = False
    clonefrom: Flag = False
    nosync: Flag = False


class Watchdog(Section):
    """The Linux watchdog device; not supported yet."""

    mode: Annotated[Literal["off"], choice("off", false="off")] = "off"


class Log(Section):
    """The agent's log on its standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"],
        choice("debug", "info", "warning", "error", "critical"),
    ] = "info"


class LocalDcs(Section):
    """The store of one machine: an SQLite file that all its agents share."""

    path: AbsolutePath = Field(description="the SQLite file's absolute path")


class Pgregent(Section):
    """pgregent's own settings."""

    suspect_after: Annotated[float, seconds(0.2, 60)] = 1.0
    lease: Annotated[float, seconds(1, 300)] = 5.0
    standby_grace: Annotated[float, seconds(0, 86400)] = 60.0
    hold_timeout: Annotated[float, seconds(0, 600)] = 15.0
    peers: Mapping[Name, Address] = {}

    @model_validator(mode="after")
    def _lease_outlasts_suspicion(self) -> Self:
        if self.lease <= self.suspect_after:
            raise mistake("lease", f"more than suspect_after, which is {self.suspect_after:g}")
        return self


class AgentConfig(Section):
    """One agent's configuration file."""

    scope: Name = Field(description="the cluster's name")
    name: Name = Field(description="this member's name")
    namespace: Annotated[str, NAMESPACE] = "/service"
    restapi: RestApi = Field(description="a section with listen")
    postgresql: Postgresql = Field(description="a section with listen, data_dir, authentication")
    local: LocalDcs = Field(description="the DCS, as in `local: {path: /…/dcs.sqlite}`")
    bootstrap: Bootstrap = Bootstrap()
    tags: Tags = Tags()
    watchdog: Watchdog = Watchdog()
    log: Log = Log()
    pgregent: Pgregent = Pgregent()


def _keys(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Patroni's keys that are known and come later, by section: they get a sentence of their own.
DCS_LATER = _keys("etcd etcd3 consul zookeeper exhibitor kubernetes raft")
LATER: Mapping[str, frozenset[str]] = {
    "": DCS_LATER | _keys("citus ctl thread_pool_size thread_stack_size"),
    "log": _keys(
        "type traceback_level format dateformat static_fields max_queue_size dir mode file_num"
        " file_size loggers deduplicate_heartbeat_logs"
    ),
    "restapi": _keys(
        "authentication certfile keyfile keyfile_password cafile ciphers verify_client allowlist"
        " allowlist_include_members http_extra_headers https_extra_headers request_queue_size"
        " server_tokens thread_pool_size"
    ),
    "postgresql": _keys(
        "proxy_address config_dir bin_name callbacks create_replica_methods basebackup"
        " recovery_conf custom_conf pg_ident pg_ctl_timeout use_pg_rewind rewind pre_promote"
        " remove_data_directory_on_rewind_failure remove_data_directory_on_diverged_timelines"
        " before_stop use_unix_socket_repl krbsrvname config_base_name"
    ),
    "postgresql.authentication": frozenset({"rewind"}),
    "bootstrap": _keys("method post_bootstrap post_init users"),
    "bootstrap.dcs": _keys(
        "maximum_lag_on_syncnode max_timelines_history primary_stop_timeout master_stop_timeout"
        " primary_race_backoff failsafe_mode check_timeline pause member_slots_ttl slots"
        " permanent_slots permanent_replication_slots ignore_slots standby_cluster"
    ),
    "bootstrap.dcs.postgresql": _keys(
        "recovery_conf pg_ident rewind basebackup pg_ctl_timeout"
        " remove_data_directory_on_rewind_failure remove_data_directory_on_diverged_timelines"
        " create_replica_methods"
    ),
    "tags": _keys("failover_priority sync_priority replicatefrom nostream"),
    "watchdog": _keys("device safety_margin"),
}
