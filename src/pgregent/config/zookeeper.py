"""The section `zookeeper`."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from pgregent.config.section import AbsolutePath, Flag, Secret, Section, Text, mistake
from pgregent.config.types import HOSTS, PERMISSIONS, HostPort

_TLS_ONLY = ("cacert", "cert", "key", "key_password")


class Zookeeper(Section):
    """The DCS is a ZooKeeper ensemble."""

    hosts: Annotated[tuple[HostPort, ...], HOSTS] = Field(
        description="its servers: a list, or `host1:2181,host2:2181`; 2181 where no port is given"
    )
    use_ssl: Flag = Field(default=False, description="connect with TLS")
    cacert: AbsolutePath | None = Field(
        default=None, description="the file of the authorities that the servers are checked against"
    )
    cert: AbsolutePath | None = Field(default=None, description="the client's certificate")
    key: AbsolutePath | None = Field(default=None, description="its private key")
    key_password: Secret | None = Field(default=None, description="the private key's password")
    verify: Flag = Field(
        default=True, description="check the servers' certificates and host names (TLS)"
    )
    set_acls: Mapping[Text, Annotated[tuple[str, ...], PERMISSIONS]] = Field(
        default={},
        description="who may do what with the keys that are made: principal (x509's, or with its "
        "scheme before it, `digest:user:hash`) to a list of READ, WRITE, CREATE, DELETE, ADMIN, "
        "ALL; without it everybody may do all",
    )
    auth_data: Mapping[Text, Secret] = Field(
        default={}, description="how to authenticate: scheme to credential, as in `digest: u:pw`"
    )

    @property
    def connect_string(self) -> str:
        """The servers as "host:port,host:port"."""
        return ",".join(str(host) for host in self.hosts)

    @model_validator(mode="after")
    def _tls_keys_have_tls(self) -> Self:
        for name in _TLS_ONLY:
            if getattr(self, name) is not None and not self.use_ssl:
                raise mistake(name, "`use_ssl: true` beside it, or none of it")
        if (self.cert is None) != (self.key is None):
            raise mistake("key" if self.key is None else "cert", "cert and key together")
        if self.key_password is not None and self.key is None:
            raise mistake("key", "the key that key_password belongs to")
        return self
