"""TLS on the agent's port, and towards the other agents' ports."""

import ssl
from pathlib import Path

from pgregent.config.rest import Ctl, RestSecurity
from pgregent.core.errors import Refused


def server_context(restapi: RestSecurity) -> ssl.SSLContext | None:
    """What the port is served with; None without restapi.certfile. Raises Refused."""
    if restapi.certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if restapi.verify_client != "none":
        # With TLS 1.2 `optional` already refuses a certificate of strangers in the handshake.
        required = restapi.verify_client == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    if restapi.cafile is not None:
        _load_authorities(context, restapi.cafile, "restapi.cafile")
    if restapi.ciphers is not None:
        try:
            context.set_ciphers(restapi.ciphers)
        except ssl.SSLError:
            raise Refused(
                f"restapi.ciphers: found {restapi.ciphers!r}, expected a list of ciphers as "
                "`openssl ciphers LIST` takes it"
            ) from None
    load_certificate(context, restapi, "restapi")
    return context


def client_context(restapi: RestSecurity, ctl: Ctl) -> ssl.SSLContext | None:
    """What other agents' ports are asked with; None without restapi.certfile. Raises Refused.

    A certificate of one's own is shown to whoever asks for it.
    """
    if restapi.certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    if ctl.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ctl.cacert is not None:
        _load_authorities(context, ctl.cacert, "ctl.cacert")
    elif restapi.cafile is not None:
        _load_authorities(context, restapi.cafile, "restapi.cafile")
    if ctl.certfile is not None:
        load_certificate(context, ctl, "ctl")
    else:
        load_certificate(context, restapi, "restapi")
    return context


def load_certificate(context: ssl.SSLContext, own: RestSecurity | Ctl, section: str) -> None:
    """Read the section's certificate and key; connections that are there keep theirs. Raises
    Refused, and the one that was loaded stays."""
    assert own.certfile is not None
    password = own.keyfile_password.get_secret_value() if own.keyfile_password is not None else ""
    try:
        # Never without a password: OpenSSL would ask for one at the terminal.
        context.load_cert_chain(own.certfile, own.keyfile, password)
    except (OSError, ValueError) as error:
        files = f"{own.certfile} and {own.keyfile}" if own.keyfile else str(own.certfile)
        key = f"{section}.certfile" if own.keyfile is None else f"{section}.certfile, keyfile"
        raise Refused(
            f"{key}: cannot use {files}: {_why(error)}; expected a certificate in PEM with its "
            "private key, which keyfile_password opens if it is encrypted"
        ) from None


def _load_authorities(context: ssl.SSLContext, path: Path, key: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        raise Refused(
            f"{key}: cannot use {path}: {_why(error)}; expected certificates in PEM"
        ) from None


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not what was expected").lower().replace("_", " ")
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
