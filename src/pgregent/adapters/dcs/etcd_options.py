"""How to reach etcd, and what of it can be refused before anything is connected."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from pgregent.adapters.dcs.address import address
from pgregent.adapters.dcs.tls import client_context
from pgregent.core.errors import Refused

PORT = 2379


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """Patroni's section `etcd3`.

    hosts: "host:port", "host" (port 2379) or "[IPv6]:port", all members; others are not looked for.
    protocol: "http" or "https". cacert: the system's if None; the servers' certificates and names
    are always checked. username and password: both or neither.
    """

    hosts: tuple[str, ...]
    protocol: str = "http"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    cacert: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """A user of etcd's."""

    username: str
    password: str = field(repr=False)


def urls(options: EtcdOptions) -> tuple[str, ...]:
    """Return where each member is, without a slash at the end. Raises Refused."""
    if options.protocol not in ("http", "https"):
        raise Refused(f"etcd3.protocol: found {options.protocol!r}, expected http or https")
    if not options.hosts:
        raise Refused("etcd3.hosts: found nothing, expected at least one host:port")
    hosts = (address("etcd3.hosts", host.strip(), PORT, "etcd1") for host in options.hosts)
    return tuple(f"{options.protocol}://{host}" for host in hosts)


def login(options: EtcdOptions) -> Login | None:
    """Return the user, if there is one. Raises Refused."""
    if not options.username and not options.password:
        return None
    if not options.username or not options.password:
        raise Refused("etcd3: found only one of username and password, expected both or neither")
    return Login(options.username, options.password)


def tls(options: EtcdOptions) -> ssl.SSLContext | None:
    """Return the TLS settings, if it is used; reads files. Raises Refused."""
    if options.protocol != "https":
        return None
    return client_context("etcd3", options.cacert, options.cert, options.key)
