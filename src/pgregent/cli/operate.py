"""Asking an agent to do something, signed with the cluster's key."""

import asyncio
import json
from collections.abc import Mapping

from pgregent.api.signed import HEADER, sign
from pgregent.cli.statuses import request
from pgregent.cli.target import Target
from pgregent.core.errors import Refused, Unavailable

TIMEOUT_S = 5.0


def ask_agent(target: Target, name: str, path: str, asked: Mapping[str, object]) -> None:
    """Have the agent of member `name` begin it. Raises Refused with its reason, Unavailable."""
    body = json.dumps(asked).encode()
    header = f"{HEADER}: {sign(target.key(), path, body)}\r\n"
    host, port = target.agents[name]
    try:
        code, answer = asyncio.run(_post(target, name, path, body, header))
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
        raise Unavailable(f"agent {name}", f"no answer from {host}:{port}: {error!r}") from None
    if code == 202:
        return
    try:
        reason = json.loads(answer)["error"]
    except (ValueError, KeyError, TypeError):
        reason = f"HTTP status {code}"
    if code == 401:
        reason += ": is this the file of another cluster, or another password?"
    raise Refused(f"{name}: {reason}")


async def _post(
    target: Target, name: str, path: str, body: bytes, header: str
) -> tuple[int, bytes]:
    host, port = target.agents[name]
    async with asyncio.timeout(TIMEOUT_S):
        return await request(host, port, "POST", path, body=body, headers=header, tls=target.tls)
