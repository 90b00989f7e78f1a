"""The agent's configuration: Patroni's YAML as typed, frozen models.

Durations are plain numbers of seconds. `load.py` reads a file into an `AgentConfig` and words
the mistakes; `dynamic.py` holds what all members have in common.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AliasChoices, Field, model_validator

from pgregent.config.basebackup import Options, arguments
from pgregent.config.callbacks import Callbacks, Command
from pgregent.config.dynamic import Dcs
from pgregent.config.etcd import Etcd3
from pgregent.config.log import Log
from pgregent.config.parameters import Parameters, merge
from pgregent.config.rest import Ctl, RestSecurity
from pgregent.config.section import (
    NO_EFFECT,
    AbsolutePath,
    Address,
    Flag,
    Lines,
    Name,
    Secret,
    Section,
    Text,
    mistake,
)
from pgregent.config.suggest import nearest
from pgregent.config.types import (
    INITDB,
    NAMESPACE,
    SCALAR,
    HostPort,
    Scalar,
    choice,
    integer,
    only_false,
    seconds,
    size,
)
from pgregent.config.zookeeper import Zookeeper

ANY_OTHER = "(any other)"
_MISSPELT = 0.8
_OURS = ("postgresql.conf", "postgresql.custom.conf", "pgregent.role.conf")
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SOCKET_BYTES_MAX = 107
_FLAGS = ("nofailover", "noloadbalance", "clonefrom", "nosync", "nostream")
_TAGS = (*_FLAGS, "failover_priority", "sync_priority", "replicatefrom")


class _Listening(Section):
    listen: Address = Field(description="the address and port to listen on")
    connect_address: Address | None = Field(
        default=None, description="where others reach it; needed where listen is every address"
    )

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


class RestApi(RestSecurity, _Listening):
    """The agent's own port: REST and the channel between agents."""


class Credentials(Section):
    """One role of the database."""

    username: Text = Field(description="the role's name")
    password: Secret = Field(description="the role's password")
    sslmode: Annotated[str | None, choice(*SSL_MODES)] = Field(
        default=None, description="whether it connects with TLS, and what it checks then"
    )
    sslcert: AbsolutePath | None = Field(
        default=None, description="the file of its certificate; without it none is shown"
    )
    sslkey: AbsolutePath | None = Field(default=None, description="the certificate's private key")
    sslrootcert: AbsolutePath | None = Field(
        default=None, description="the file of the authorities that servers are checked against"
    )
    sslcrl: AbsolutePath | None = Field(
        default=None, description="the file of certificates that are revoked"
    )
    sslcrldir: AbsolutePath | None = Field(
        default=None, description="a directory of files of certificates that are revoked"
    )
    gssencmode: Annotated[str | None, choice("disable", "prefer", "require")] = Field(
        default=None, description="whether it connects with GSSAPI's encryption"
    )
    channel_binding: Annotated[str | None, choice("disable", "prefer", "require")] = Field(
        default=None, description="whether SCRAM has to be bound to the TLS connection"
    )

    @property
    def connection(self) -> Mapping[str, str]:
        """What libpq is told besides name and password."""
        given = self.model_dump(exclude={"username", "password"}, exclude_none=True)
        return {name: str(value) for name, value in given.items()}


class Authentication(Section):
    """The roles that the agent uses."""

    superuser: Credentials = Field(description="username and password")
    replication: Credentials = Field(
        description="username and password; the channel between agents has its key from this one"
    )
    rewind: Credentials | None = Field(
        default=None,
        description="username and password of pg_rewind's role; without it the superuser",
    )


class Postgresql(_Listening):
    """This member's PostgreSQL server."""

    data_dir: AbsolutePath = Field(
        description="the data directory's absolute path; `<data_dir>.pgregent` is the agent's"
    )
    bin_dir: AbsolutePath | None = Field(
        default=None, description="where PostgreSQL's programs are; without it the newest installed"
    )
    pgpass: AbsolutePath | None = Field(
        default=None,
        description="the password file of the standby's connection; without it one beside data_dir",
    )
    authentication: Authentication = Field(description="superuser and replication")
    parameters: Parameters = Field(
        default={},
        description="PostgreSQL's parameters of this member; they win over those of "
        "bootstrap.dcs, except the ones that have to be the same on all members",
    )
    pg_hba: Lines = Field(default=(), description="lines of this member's pg_hba.conf")
    pg_ident: Lines = Field(default=(), description="lines of this member's pg_ident.conf")
    config_dir: AbsolutePath | None = Field(
        default=None,
        description="the directory of PostgreSQL's configuration files, which the agent writes; "
        "without it data_dir",
    )
    custom_conf: AbsolutePath | None = Field(
        default=None,
        description="a configuration file of PostgreSQL's that is read instead of "
        "postgresql.base.conf",
    )
    callbacks: Callbacks = Callbacks()
    basebackup: Options = Field(
        default=(), description="options of pg_basebackup, which makes a new standby"
    )
    pg_ctl_timeout: Annotated[float | None, seconds(1, 3600)] = Field(
        default=None,
        description="how long a clean stop of this member's server may take before it is killed",
    )
    use_unix_socket: Flag = Field(
        default=False,
        description="the agent connects to its own server through a socket in "
        "`<data_dir>.pgregent/socket`, not by TCP; pg_hba then needs a line `local`",
    )
    use_unix_socket_repl: Flag = Field(
        default=False,
        description=f"{NO_EFFECT}: the agent makes no replication connection to its own server",
    )

    @model_validator(mode="after")
    def _files_are_the_operators(self) -> Self:
        data, folder, custom = self.data_dir, self.config_dir or self.data_dir, self.custom_conf
        if folder != data and folder.is_relative_to(data):
            raise mistake("config_dir", "a directory that is not below data_dir")
        if custom is not None and custom.parent in (data, folder) and custom.name in _OURS:
            raise mistake("custom_conf", "a file that pgregent does not write: rename it")
        socket = f"{data}.pgregent/socket/.s.PGSQL.{self.listen.port}"
        if self.use_unix_socket and len(os.fsencode(socket)) > _SOCKET_BYTES_MAX:
            expected = f"false, because {socket} has more than {_SOCKET_BYTES_MAX} bytes"
            raise mistake("use_unix_socket", expected)
        return self


class Bootstrap(Section):
    """How a new cluster is made; without effect on one that exists."""

    dcs: Dcs = Dcs()
    initdb: Annotated[tuple[str, ...], INITDB] = Field(
        default=(),
        description="options of initdb, added to UTF8, C.UTF-8 and checksums",
    )
    post_bootstrap: Command = Field(
        default=None,
        validation_alias=AliasChoices("post_bootstrap", "post_init"),
        description="a command that is run once, as PostgreSQL's user, when a new cluster's first "
        "server answers, with a connection string as its last argument; if it fails, there is no "
        "cluster",
    )
    pg_hba: Lines = Field(
        default=(),
        description="lines of pg_hba.conf, where neither of the others is given; without any, all "
        "log in with scram-sha-256",
    )


class Tags(Section):
    """What this member is not used for, and what its operator says of it."""

    nofailover: Flag = Field(default=False, description="it never becomes the primary")
    noloadbalance: Flag = Field(default=False, description="no read-only clients are sent to it")
    clonefrom: Annotated[bool, only_false("members are cloned from the primary")] = Field(
        default=False, description="members are cloned from the primary"
    )
    nosync: Flag = Field(default=False, description="commits never wait for it")
    nostream: Annotated[bool, only_false("a standby streams")] = Field(
        default=False, description="a standby streams"
    )
    failover_priority: Annotated[int, integer(0, 1000)] = Field(
        default=1,
        description="0: as nofailover; else no effect: whoever has everything and is furthest is "
        "appointed",
    )
    sync_priority: Annotated[int, integer(0, 1000)] = Field(
        default=1, description="0: as nosync; else no effect: any of the standbys confirm a commit"
    )
    replicatefrom: Text | None = Field(
        default=None, description=f"{NO_EFFECT}: every standby streams from the primary"
    )
    custom: Mapping[str, Annotated[Scalar, SCALAR]] = Field(
        default={},
        validation_alias=ANY_OTHER,
        description="a tag of one's own, a single value; `/replica?tag_KEY=VALUE` asks for it",
    )

    @model_validator(mode="before")
    @classmethod
    def _gather_custom(cls, data: Any) -> Any:
        """What resembles one of ours is left in place, to be refused as misspelt."""
        if not isinstance(data, dict):
            return data
        items = cast(dict[Any, Any], data)
        custom = {
            k: v for k, v in items.items() if not isinstance(k, str) or not _resembles(k, _TAGS)
        }
        rest: dict[Any, Any] = {k: v for k, v in items.items() if k not in custom}
        return rest | {ANY_OTHER: {k: v for k, v in custom.items() if v is not None}}

    @property
    def all(self) -> Mapping[str, Scalar]:
        """As the REST API shows them: those that are set, and all of one's own."""
        flags = {name: True for name in _FLAGS if getattr(self, name)}
        others = ("failover_priority", "sync_priority", "replicatefrom")
        given = {name: getattr(self, name) for name in others if name in self.model_fields_set}
        return {**flags, **given, **self.custom}

    @property
    def never_primary(self) -> bool:
        """Whether it is never appointed."""
        return self.nofailover or self.failover_priority == 0

    @property
    def never_synchronous(self) -> bool:
        """Whether commits never wait for it."""
        return self.nosync or self.sync_priority == 0


def _resembles(name: str, known: tuple[str, ...]) -> bool:
    return nearest(name, known, alike=_MISSPELT) is not None


class Watchdog(Section):
    """The Linux watchdog device, which is not used: a guard process stops PostgreSQL when its agent
    hangs, and a primary without authority acknowledges nothing."""

    mode: Annotated[Literal["off", "automatic"], choice("off", "automatic", false="off")] = Field(
        default="off",
        description="no watchdog device is used, so `automatic` is the same; `required` is refused",
    )
    device: Text | None = Field(default=None, description=f"{NO_EFFECT}: no device is used")
    safety_margin: Annotated[int, integer(-1, 86400)] = Field(
        default=5, description=f"{NO_EFFECT}: no device is used"
    )


class LocalDcs(Section):
    """The store of one machine: an SQLite file that all its agents share."""

    path: AbsolutePath = Field(description="the SQLite file's absolute path")


class Pgregent(Section):
    """pgregent's own settings."""

    suspect_after: Annotated[float, seconds(0.2, 60)] = Field(
        default=1.0, description="silence after which a primary is suspected"
    )
    lease: Annotated[float, seconds(1, 300)] = Field(
        default=5.0,
        description="how long a primary may serve without a word of its rule's members or of the "
        "DCS; more than suspect_after",
    )
    standby_grace: Annotated[float, seconds(0, 86400)] = Field(
        default=60.0,
        description="how long a missing standby stays in the rule while the rule can be met "
        "without it",
    )
    hold_timeout: Annotated[float, seconds(0, 600)] = Field(
        default=15.0,
        description="how long the entry point holds a connection while there is no primary; the "
        "same in all members' files",
    )
    peers: Mapping[Name, Address] = Field(
        default={},
        description="the other members' agents, name to address; members also find each other "
        "through the DCS",
    )

    @model_validator(mode="after")
    def _lease_outlasts_suspicion(self) -> Self:
        if self.lease <= self.suspect_after:
            raise mistake("lease", f"more than suspect_after, which is {self.suspect_after:g}")
        return self


class AgentConfig(Section):
    """One agent's configuration file. One of `zookeeper`, `etcd3` and `local` is given (see
    load.py)."""

    scope: Name = Field(description="the cluster's name")
    name: Name = Field(description="this member's name")
    namespace: Annotated[str, NAMESPACE] = Field(
        default="/service", description="the path that the cluster's keys are under"
    )
    thread_pool_size: Annotated[int, integer(5, 2**31)] = Field(
        default=5, description=f"{NO_EFFECT}: the agent's work is not done by threads"
    )
    thread_stack_size: Annotated[int, size(64 << 10)] = Field(
        default=512 << 10, description=f"{NO_EFFECT}: the agent's work is not done by threads"
    )
    restapi: RestApi = Field(description="a section with listen")
    ctl: Ctl = Ctl()
    postgresql: Postgresql = Field(description="a section with listen, data_dir, authentication")
    zookeeper: Zookeeper | None = None
    etcd3: Etcd3 | None = None
    local: LocalDcs | None = None
    bootstrap: Bootstrap = Bootstrap()
    tags: Tags = Tags()
    watchdog: Watchdog = Watchdog()
    log: Log = Log()
    pgregent: Pgregent = Pgregent()

    def server_parameters(self, dcs: Dcs) -> Mapping[str, str]:
        """The parameters of this member's server under the dynamic configuration `dcs`."""
        return merge(dcs.postgresql.parameters, self.postgresql.parameters)

    def server_hba(self, dcs: Dcs) -> tuple[str, ...]:
        """The lines of its pg_hba.conf; none given: ()."""
        return self.postgresql.pg_hba or dcs.postgresql.pg_hba or self.bootstrap.pg_hba

    def server_ident(self, dcs: Dcs) -> tuple[str, ...]:
        """The lines of its pg_ident.conf."""
        return self.postgresql.pg_ident or dcs.postgresql.pg_ident

    def basebackup(self, dcs: Dcs) -> tuple[str, ...]:
        """The options of its pg_basebackup, besides pgregent's own."""
        return arguments(self.postgresql.basebackup or dcs.postgresql.basebackup)

    def stop_timeout(self, dcs: Dcs) -> float:
        """Seconds that a clean stop of its server may take."""
        own = self.postgresql.pg_ctl_timeout or dcs.postgresql.pg_ctl_timeout
        return dcs.primary_stop_timeout or own
