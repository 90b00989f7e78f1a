"""How to reach ZooKeeper, and what of it can be refused before anything is connected."""

import importlib.util
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kazoo.security import ACL, Id, Permissions  # pyright: ignore[reportMissingTypeStubs]

from pgregent.adapters.dcs.address import address
from pgregent.adapters.dcs.zookeeper_sasl import Login
from pgregent.core.errors import Refused

PORT = 2181
SCHEMES = ("world", "auth", "digest", "ip", "sasl", "x509")
PERMISSIONS = ("CREATE", "READ", "WRITE", "DELETE", "ADMIN", "ALL")


@dataclass(frozen=True, slots=True)
class ZookeeperOptions:
    """Patroni's section `zookeeper`.

    hosts: "host:port", "host" (port 2181) or "[IPv6]:port". cacert: the system's if None.
    verify: the server's certificate and its host name. set_acls: principal -> permissions (CREATE,
    READ, WRITE, DELETE, ADMIN, ALL) of what we create; a principal is x509's, as in Patroni, unless
    its scheme stands before it ("digest:user:hash"). auth_data: scheme -> credential ("digest" or
    "sasl", which means its DIGEST-MD5, -> "user:password"). session_timeout_s: the server makes it
    2 to 20 ticks.
    """

    hosts: tuple[str, ...]
    use_ssl: bool = False
    cacert: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    key_password: str | None = field(default=None, repr=False)
    verify: bool = True
    set_acls: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    auth_data: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    session_timeout_s: float = 10.0


def servers(options: ZookeeperOptions) -> tuple[str, ...]:
    """Return every host as kazoo wants it. Raises Refused."""
    if not options.hosts:
        raise Refused("zookeeper.hosts: found nothing, expected at least one host:port")
    hosts = (host.strip() for host in options.hosts)
    return tuple(address("zookeeper.hosts", host, PORT, "zoo") for host in hosts)


def acl(options: ZookeeperOptions) -> list[Any] | None:
    """Return what nodes are created with; None: open to everybody. Raises Refused."""
    entries: list[Any] = []
    for principal, permissions in options.set_acls.items():
        wanted = {permission.upper() for permission in permissions}
        if not wanted or wanted - set(PERMISSIONS):
            raise Refused(
                f"zookeeper.set_acls, {principal}: found {', '.join(permissions) or 'nothing'}, "
                f"expected some of {', '.join(PERMISSIONS)}"
            )
        scheme, colon, rest = principal.partition(":")
        if not colon or scheme not in SCHEMES:
            scheme, rest = "x509", principal
        entries.append(ACL(_bits(wanted), Id(scheme, rest)))
    return entries or None


def _bits(permissions: set[str]) -> int:
    if "ALL" in permissions:
        return Permissions.ALL
    return sum(getattr(Permissions, permission) for permission in permissions)


def auth(options: ZookeeperOptions) -> list[tuple[str, str]]:
    """Return the credentials that are sent as they are, which is all but SASL's."""
    return [(scheme, given) for scheme, given in options.auth_data.items() if scheme != "sasl"]


def login(options: ZookeeperOptions) -> Login | None:
    """Return SASL's user, if it is used. Raises Refused."""
    if "sasl" not in options.auth_data:
        return None
    user, _, password = options.auth_data["sasl"].partition(":")
    if not user or not password:
        raise Refused("zookeeper.auth_data: for the scheme sasl expected user:password")
    if not user.isascii():
        raise Refused(
            f"zookeeper.auth_data: found the user {user!r} for the scheme sasl, expected ASCII: "
            "give the user another name in the server's JAAS file"
        )
    if importlib.util.find_spec("puresasl") is None:
        raise Refused(
            "zookeeper.auth_data: found the scheme sasl, but the library for it is missing: "
            "pip install pgregent[zookeeper]"
        )
    return Login(user, password)


def tls(options: ZookeeperOptions) -> ssl.SSLContext | None:
    """Return the TLS settings, if it is used; reads files. Raises Refused."""
    if not options.use_ssl:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.cacert is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load("cacert", options.cacert, lambda: context.load_verify_locations(options.cacert))
    if (options.cert is None) != (options.key is None):
        raise Refused("zookeeper: found only one of cert and key, expected both or neither")
    if options.cert is not None and options.key is not None:
        cert, key = options.cert, options.key
        _readable("cert", cert)
        _readable("key", key)
        # Without any password OpenSSL would ask for it on the terminal.
        password = options.key_password or ""
        _load("cert and key", cert, lambda: context.load_cert_chain(cert, key, password))
    return context


def _readable(name: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise Refused(
            f"zookeeper.{name}: cannot read {path} ({error.strerror}): name a PEM file that the "
            "agent's user may read"
        ) from None


def _load(name: str, path: Path, load: Any) -> None:
    _readable(name, path)
    try:
        load()
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise Refused(
            f"zookeeper.{name}: {path} is of no use ({reason}): expected PEM, and for an encrypted "
            "key its key_password"
        ) from None
