"""Requests that carry a MAC over path and body, made with the cluster's key.

What they change names the term, copy or version that it is about, so one that somebody overheard
does nothing once it was carried out; a reload reads the file that is there anyway. A restart or a
copy names the server's start or the incarnation that it is about.
"""

import hmac

SWITCHOVER = "/pgregent/switchover"
RESTORE_DCS = "/pgregent/restore-dcs"
SHOW_CONFIG = "/pgregent/show-config"
EDIT_CONFIG = "/pgregent/edit-config"
RELOAD = "/pgregent/reload"
RESTART = "/pgregent/restart"
REINITIALIZE = "/pgregent/reinitialize"
SIGNED = frozenset(
    {SWITCHOVER, RESTORE_DCS, SHOW_CONFIG, EDIT_CONFIG, RELOAD, RESTART, REINITIALIZE}
)
"""Their paths."""

HEADER = "Pgregent-MAC"
_LABEL = b"pgregent request v1\0"


def sign(key: bytes, path: str, body: bytes) -> str:
    """The header's value."""
    return hmac.digest(key, _LABEL + path.encode() + b"\0" + body, "sha256").hex()


def is_signed(key: bytes, path: str, body: bytes, header: str) -> bool:
    """Whether the sender holds the key."""
    return hmac.compare_digest(sign(key, path, body).encode(), header.encode(errors="replace"))
