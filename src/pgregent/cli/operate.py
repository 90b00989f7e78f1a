"""Asking an agent to do something, signed with the cluster's key."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, cast

from pgregent.api.signed import HEADER, sign
from pgregent.cli.statuses import request
from pgregent.cli.target import Target
from pgregent.core.errors import Refused, Unavailable

TIMEOUT_S = 5.0
"""For what the agent only begins."""


def ask_agent(
    target: Target,
    name: str,
    path: str,
    asked: Mapping[str, object],
    limit: float = TIMEOUT_S,
) -> dict[str, Any]:
    """Have the agent of member `name` do or begin it; returns its answer, within
    `limit` seconds. Raises Refused with its
    reason, Unavailable."""
    if name not in target.agents:
        raise Unavailable(f"agent {name}", "neither the DCS nor an agent that answers knows where")
    body = json.dumps(asked).encode()
    header = f"{HEADER}: {sign(target.key(), path, body)}\r\n"
    host, port = target.agents[name]
    try:
        code, answer = asyncio.run(_post(target, name, path, body=body, header=header, limit=limit))
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
        raise Unavailable(f"agent {name}", f"no answer from {host}:{port}: {error!r}") from None
    found = _object(answer)
    if code in (200, 202):
        return found
    reason = found.get("error") or f"HTTP status {code}: {answer[:200].decode(errors='replace')}"
    if code == 503:
        raise Unavailable(f"agent {name}", reason)
    if code == 401:
        reason += ": is this the file of another cluster, or another password?"
    raise Refused(f"{name}: {reason}")


async def _post(
    target: Target, name: str, path: str, *, body: bytes, header: str, limit: float
) -> tuple[int, bytes]:
    host, port = target.agents[name]
    async with asyncio.timeout(limit):
        return await request(host, port, "POST", path, body=body, headers=header, tls=target.tls)


def _object(answer: bytes) -> dict[str, Any]:
    try:
        found: Any = json.loads(answer)
    except ValueError:
        found = None
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}
