"""The section `etcd3`."""

from typing import Annotated, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, model_validator

from pgregent.config.section import AbsolutePath, Secret, Section, Text, mistake
from pgregent.config.types import ETCD_HOST, ETCD_HOSTS, ETCD_PORT, HostPort, choice

_TLS_ONLY = ("cacert", "cert", "key")
_URL = "a URL, as in `https://etcd1:2379`"


class Etcd3(Section):
    """The DCS is an etcd cluster, through its v3 API."""

    hosts: Annotated[tuple[HostPort, ...], ETCD_HOSTS] = Field(
        default=(),
        description="its members, all of them: a list, or `host1:2379,host2:2379`; 2379 where no "
        "port is given",
    )
    host: Annotated[HostPort, ETCD_HOST] | None = Field(
        default=None, description="a single member, instead of hosts"
    )
    url: Secret | None = Field(
        default=None,
        description="the same as `https://user:password@host:port`, instead of hosts, protocol, "
        "username and password",
    )
    protocol: Annotated[str, choice("http", "https")] = Field(
        default="http", description="`https`: connect with TLS"
    )
    username: Text | None = Field(default=None, description="etcd's user")
    password: Secret | None = Field(default=None, description="the user's password")
    cacert: AbsolutePath | None = Field(
        default=None,
        description="the file of the authorities that the members are checked against; without it "
        "the system's",
    )
    cert: AbsolutePath | None = Field(default=None, description="the client's certificate")
    key: AbsolutePath | None = Field(
        default=None, description="its private key, where cert does not hold it"
    )

    @property
    def members(self) -> tuple[HostPort, ...]:
        """The members to connect to."""
        if self.url is not None:
            parts = urlsplit(self.url.get_secret_value())
            return (HostPort(parts.hostname or "", parts.port or ETCD_PORT),)
        return self.hosts if self.host is None else (self.host,)

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        if self.url is not None:
            return urlsplit(self.url.get_secret_value()).scheme
        return self.protocol

    @property
    def login(self) -> tuple[str, str] | None:
        """The user and the password, if there is one."""
        if self.url is not None and "@" in self.url.get_secret_value():
            parts = urlsplit(self.url.get_secret_value())
            return unquote(parts.username or ""), unquote(parts.password or "")
        if self.username is None or self.password is None:
            return None
        return self.username, self.password.get_secret_value()

    @property
    def connect_string(self) -> str:
        """The members as "http://host:port,http://host:port"."""
        return ",".join(f"{self.scheme}://{member}" for member in self.members)

    @model_validator(mode="after")
    def _one_way_to_name_members(self) -> Self:
        given = [name for name in ("hosts", "host", "url") if getattr(self, name)]
        if not given:
            raise mistake("hosts", "its members, as in `[etcd1:2379, etcd2:2379]`")
        if len(given) > 1:
            raise mistake(given[1], f"one of hosts, host and url: {given[0]} is given too")
        if self.url is not None and not _is_usable(self.url.get_secret_value()):
            raise mistake("url", _URL)
        return self

    @model_validator(mode="after")
    def _what_belongs_together(self) -> Self:
        in_url = self.url is not None and "@" in self.url.get_secret_value()
        for name in ("username", "password"):
            if in_url and getattr(self, name) is not None:
                raise mistake(name, "one user: url names one too")
        if (self.username is None) != (self.password is None):
            absent = "username" if self.username is None else "password"
            raise mistake(absent, "username and password together")
        for name in _TLS_ONLY:
            if getattr(self, name) is not None and self.scheme != "https":
                raise mistake(name, "`protocol: https` beside it, or none of it")
        if self.key is not None and self.cert is None:
            raise mistake("cert", "the certificate that key belongs to")
        return self


def _is_usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    has_login = "@" not in url or bool(parts.username and parts.password)
    is_plain = parts.path in ("", "/") and not parts.query and not parts.fragment
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and port != 0
        and is_plain
        and has_login
    )
