"""The sections `restapi` (what makes the agent's port safe) and `ctl` (how others' are asked)."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self, cast

from pydantic import BeforeValidator, Field, model_validator

from pgregent import __version__
from pgregent.config.section import (
    NO_EFFECT,
    AbsolutePath,
    Flag,
    Secret,
    Section,
    Text,
    mistake,
)
from pgregent.config.types import choice, integer

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?")
_SERVER: Mapping[str, Mapping[str, str]] = {
    "original": {},
    "productonly": {"Server": "pgregent"},
    "minimal": {"Server": f"pgregent/{__version__}"},
}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")


def _allowlist(value: object) -> tuple[str, ...]:
    """Read a list, or Patroni's text of one: `10.0.0.0/8,host`."""
    expected = "a list of addresses, networks and host names, as in `[127.0.0.1, 10.0.0.0/8]`"
    items = cast(object, value.split(",") if isinstance(value, str) else value)
    if not isinstance(items, list | tuple):
        raise ValueError(expected)
    found = [_network(item, expected) for item in cast(list[object], items)]
    return tuple(found)


def _network(item: object, expected: str) -> str:
    text = item.strip().strip("'\"") if isinstance(item, str) else ""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        if not _HOST_NAME.fullmatch(text) or re.fullmatch(r"[0-9.]+", text):
            raise ValueError(expected) from None
    return text


def _headers(value: object) -> Mapping[str, str]:
    expected = "a mapping of header to value, as in `X-Frame-Options: DENY`"
    if not isinstance(value, dict):
        raise ValueError(expected)
    found: dict[str, str] = {}
    for name, text in cast(dict[object, object], value).items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ValueError(expected)
        if isinstance(text, bool) or not isinstance(text, str | int):
            raise ValueError(expected)
        line = str(text)
        if not line.isprintable():
            raise ValueError(expected)
        found[name] = line
    return found


Headers = Annotated[Mapping[str, str], BeforeValidator(_headers)]


class BasicAuth(Section):
    """A user name and its password."""

    username: Text = Field(description="the user's name; without a colon")
    password: Secret = Field(description="the user's password")

    @model_validator(mode="after")
    def _has_no_colon(self) -> Self:
        if ":" in self.username:
            raise mistake("username", "a name without a colon")
        return self


class RestSecurity(Section):
    """Who may ask the agent for what."""

    authentication: BasicAuth | None = Field(
        default=None, description="what requests that change something have to authenticate with"
    )
    certfile: AbsolutePath | None = Field(
        default=None,
        description="the port's certificate: REST and the channel between agents then use TLS, on "
        "all members alike",
    )
    keyfile: AbsolutePath | None = Field(
        default=None, description="its private key, where certfile does not hold it"
    )
    keyfile_password: Secret | None = Field(default=None, description="the private key's password")
    cafile: AbsolutePath | None = Field(
        default=None,
        description="the file of the authorities that clients, and the other members' "
        "certificates, are checked against; without it the system's check the members'",
    )
    ciphers: Text | None = Field(
        default=None, description="the ciphers that are offered up to TLS 1.2, as OpenSSL writes it"
    )
    verify_client: Annotated[
        Literal["none", "optional", "required"], choice("none", "optional", "required")
    ] = Field(
        default="none",
        description="`required`: nobody connects without a certificate; `optional`: nobody changes "
        "anything without one",
    )
    allowlist: Annotated[tuple[str, ...], BeforeValidator(_allowlist)] = Field(
        default=(),
        description="addresses, networks and host names from which something may be changed",
    )
    allowlist_include_members: Flag = Field(
        default=False, description="the members' own addresses are in the allowlist too"
    )
    http_extra_headers: Headers = Field(
        default={}, description="headers of every answer, name to value"
    )
    https_extra_headers: Headers = Field(
        default={}, description="the same where TLS is used; they win over http_extra_headers"
    )

    server_tokens: Annotated[
        Literal["original", "productonly", "minimal"], choice("original", "productonly", "minimal")
    ] = Field(
        default="original",
        description="the header Server: `productonly` is pgregent's name, `minimal` also its "
        "version",
    )
    request_queue_size: Annotated[int, integer(0, 4096)] = Field(
        default=5, description=f"{NO_EFFECT}: connections do not wait for one another here"
    )
    thread_pool_size: Annotated[int, integer(5, 2**31)] = Field(
        default=5, description=f"{NO_EFFECT}: requests are not answered by threads"
    )

    @property
    def extra_headers(self) -> Mapping[str, str]:
        """The headers of every answer."""
        headers = {**_SERVER[self.server_tokens], **self.http_extra_headers}
        return headers if self.certfile is None else {**headers, **self.https_extra_headers}

    @property
    def scheme(self) -> str:
        """`https` or `http`."""
        return "http" if self.certfile is None else "https"

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if self.certfile is None:
            for name in ("keyfile", "keyfile_password", "ciphers"):
                if getattr(self, name) is not None:
                    raise mistake("certfile", f"the certificate that {name} belongs to")
            if self.verify_client != "none":
                raise mistake("certfile", "a certificate, because verify_client needs TLS")
        if self.verify_client != "none" and self.cafile is None:
            raise mistake("cafile", "the authorities that verify_client checks clients against")
        return self


class Ctl(Section):
    """How this file's agent and commands ask other agents; without it as `restapi` says."""

    authentication: BasicAuth | None = Field(
        default=None, description="accepted for patronictl: pgregent signs its requests instead"
    )
    insecure: Flag = Field(
        default=False, description="do not check the agents' certificates and host names (TLS)"
    )
    cacert: AbsolutePath | None = Field(
        default=None,
        description="the file of the authorities that agents are checked against; without it "
        "restapi.cafile",
    )
    certfile: AbsolutePath | None = Field(
        default=None, description="the client's certificate; without it restapi.certfile"
    )
    keyfile: AbsolutePath | None = Field(
        default=None, description="its private key, where certfile does not hold it"
    )
    keyfile_password: Secret | None = Field(default=None, description="the private key's password")

    @model_validator(mode="after")
    def _key_has_a_certificate(self) -> Self:
        for name in ("keyfile", "keyfile_password"):
            if getattr(self, name) is not None and self.certfile is None:
                raise mistake("certfile", f"the certificate that {name} belongs to")
        return self
