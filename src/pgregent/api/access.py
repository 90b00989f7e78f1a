"""Who may change something through REST, in the order in which Patroni looks."""

import asyncio
import base64
import hmac
import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiohttp import web

from pgregent.config.rest import BasicAuth, RestSecurity

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
RESOLVE_S = 1.0
"""How long the name service has to say what a name in the allowlist means."""
_LOOPBACK = ("127.0.0.0/8", "::1")
_REALM = {"WWW-Authenticate": 'Basic realm="Patroni"'}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(slots=True)
class Access:
    """`rest` is replaced by a reload; `members` are the hosts of all members that are known;
    `signed` the paths whose requests carry a signature with the cluster's key, which stands for
    user and password."""

    rest: RestSecurity
    members: Callable[[], Iterable[str]]
    signed: frozenset[str] = frozenset()

    async def refusal(self, request: web.Request) -> web.Response | None:
        """The answer to who may not; None if the request may be carried out."""
        if request.method in SAFE:
            return None
        rest = self.rest
        if (rest.allowlist or rest.allowlist_include_members) and not await self._listed(request):
            return web.Response(status=403, text="Access is denied")
        if rest.verify_client != "none" and not _has_certificate(request):
            return web.Response(status=403, text="client certificate required")
        if request.path in self.signed:
            return None
        if rest.authentication is not None:
            reason = _unauthenticated(rest.authentication, request)
            return web.Response(status=401, text=reason, headers=_REALM) if reason else None
        restricted = rest.allowlist or rest.allowlist_include_members
        if restricted or rest.verify_client != "none":
            return None
        if await _is_among(request.remote, [*_LOOPBACK, *self.members()]):
            return None
        return web.Response(
            status=403,
            text="Access is denied: only the members' own hosts may change something while neither "
            "restapi.authentication nor restapi.allowlist nor restapi.verify_client is given",
        )

    async def _listed(self, request: web.Request) -> bool:
        members = self.members() if self.rest.allowlist_include_members else ()
        return await _is_among(request.remote, [*self.rest.allowlist, *members])


def _unauthenticated(known: BasicAuth, request: web.Request) -> str:
    header = request.headers.get("Authorization")
    if header is None:
        return "no auth header received"
    pair = f"{known.username}:{known.password.get_secret_value()}"
    expected = b"Basic " + base64.b64encode(pair.encode())
    same = hmac.compare_digest(expected, header.strip().encode(errors="replace"))
    return "" if same else "not authenticated"


def _has_certificate(request: web.Request) -> bool:
    transport = request.transport
    return transport is not None and bool(transport.get_extra_info("peercert"))


async def _is_among(remote: str | None, hosts: Iterable[str]) -> bool:
    """Whether these addresses, networks and names mean the address."""
    address = _address(remote)
    if address is None:
        return False
    names: list[str] = []
    for host in hosts:
        try:
            network = ipaddress.ip_network(host, strict=False)
        except ValueError:
            names.append(host)
            continue
        if address.version == network.version and address in network:
            return True
    found = await asyncio.gather(*(_resolved(name) for name in dict.fromkeys(names)))
    return any(address == other for addresses in found for other in addresses)


def _address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address((text or "").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


async def _resolved(
    name: str,
) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        async with asyncio.timeout(RESOLVE_S):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return []
    addresses = (_address(str(entry[4][0])) for entry in found)
    return [address for address in addresses if address is not None]
