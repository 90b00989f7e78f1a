"""Requests that change something carry a MAC over path and body, made with the cluster's key.

What they ask names the term or the copy that it is about, so one that somebody overheard does
nothing once it was carried out.
"""

import hmac

HEADER = "Pgregent-MAC"
_LABEL = b"pgregent request v1\0"


def sign(key: bytes, path: str, body: bytes) -> str:
    """The header's value."""
    return hmac.digest(key, _LABEL + path.encode() + b"\0" + body, "sha256").hex()


def is_signed(key: bytes, path: str, body: bytes, header: str) -> bool:
    """Whether the sender holds the key."""
    return hmac.compare_digest(sign(key, path, body).encode(), header.encode(errors="replace"))
