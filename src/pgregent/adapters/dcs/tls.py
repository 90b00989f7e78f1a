"""A TLS context from files that an operator named."""

import ssl
from collections.abc import Callable
from pathlib import Path

from pgregent.core.errors import Refused


def client_context(
    section: str, cacert: Path | None, cert: Path | None, key: Path | None
) -> ssl.SSLContext:
    """Return what servers are checked with, names included; reads files.

    `cacert`: None for the system's authorities. `cert`: the client's certificate, PEM, with its key
    where `key` is None; the key is not encrypted. `section` is where they were configured, for
    messages. Raises Refused.
    """
    if key is not None and cert is None:
        raise Refused(f"{section}: found key without cert, expected both or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if cacert is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load(section, "cacert", (cacert,), lambda: context.load_verify_locations(cacert))
    if cert is not None:
        paths = (cert,) if key is None else (cert, key)
        # Without any password OpenSSL would ask for it on the terminal.
        _load(section, "cert and key", paths, lambda: context.load_cert_chain(cert, key, ""))
    return context


def _load(section: str, name: str, paths: tuple[Path, ...], load: Callable[[], object]) -> None:
    where = " and ".join(map(str, paths))
    try:
        for path in paths:
            path.open("rb").close()
        load()
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise Refused(f"{section}.{name}: {where}: of no use ({reason}), expected PEM") from None
    except OSError as error:
        raise Refused(
            f"{section}.{name}: cannot read {error.filename or where} ({error.strerror}): name a "
            "PEM file that the agent's user may read"
        ) from None
