"""Where a server is, as an operator wrote it."""

from urllib.parse import urlsplit

from pgregent.core.errors import Refused


def address(key: str, found: str, port: int, example: str) -> str:
    """Return host:port, an IPv6 address in brackets, with `port` where none is given. `key` is
    where it was configured, `example` such a host, for messages. Raises Refused."""
    try:
        parts = urlsplit(f"//{found}")
        host, given = parts.hostname, parts.port or port
    except ValueError:
        host, given, parts = None, port, None
    if not host or not parts or parts.path or parts.username or any(c in found for c in " ,?#"):
        raise Refused(f"{key}: found {found!r}, expected host:port, such as {example}:{port}")
    return f"[{host}]:{given}" if ":" in host else f"{host}:{given}"
