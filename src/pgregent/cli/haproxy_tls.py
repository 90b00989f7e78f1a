"""How HAProxy asks agents whose port uses TLS: what api.tls is for our own processes."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pgregent.adapters.entry.haproxy import Tls, key_of
from pgregent.config.schema import AgentConfig
from pgregent.core.errors import Refused

SYSTEM_AUTHORITIES = "@system-ca"


def agents_tls(files: Sequence[str], configs: Sequence[AgentConfig]) -> Tls | None:
    """What the first of these files says; None without restapi.certfile. Raises Refused."""
    file, restapi, ctl = files[0], configs[0].restapi, configs[0].ctl
    if restapi.certfile is None:
        return None
    if ctl.insecure:
        ca_file = None
    elif ctl.cacert is not None:
        ca_file = _word(ctl.cacert, f"{file}: ctl.cacert")
    elif restapi.cafile is not None:
        ca_file = _word(restapi.cafile, f"{file}: restapi.cafile")
    else:
        ca_file = SYSTEM_AUTHORITIES
    return Tls(ca_file, _certificate(file, configs[0]) if _is_required(configs) else None)


def _is_required(configs: Iterable[AgentConfig]) -> bool:
    return any(config.restapi.verify_client == "required" for config in configs)


def _certificate(file: str, config: AgentConfig) -> str:
    """The client's certificate, whose key HAProxy has to find and open by itself."""
    section = "ctl" if config.ctl.certfile is not None else "restapi"
    own = config.ctl if config.ctl.certfile is not None else config.restapi
    assert own.certfile is not None
    expected = key_of(own.certfile)
    if own.keyfile not in (None, own.certfile, expected):
        raise Refused(
            f"{file}: {section}.keyfile: found {own.keyfile}, expected {expected}, where HAProxy "
            f"looks for the key of {own.certfile} (restapi.verify_client is `required`): put the "
            "key there or into the certificate's file, or name a certificate for HAProxy in `ctl`"
        )
    if own.keyfile_password is not None:
        raise Refused(
            f"{file}: {section}.keyfile_password: HAProxy would ask for it at the terminal, and "
            "restapi.verify_client is `required`: name a certificate for HAProxy, whose key has "
            "no password, in `ctl`"
        )
    return _word(own.certfile, f"{file}: {section}.certfile")


def _word(path: Path, key: str) -> str:
    """The path as haproxy.cfg can have it."""
    if re.search(r"[\s\"'\\#$]", str(path)):
        raise Refused(f"{key}: found {path}, expected a path without spaces and quotes for HAProxy")
    return str(path)
