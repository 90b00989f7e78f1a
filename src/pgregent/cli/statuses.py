"""What the living agents say: GET /pgregent/status of each, within one second."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pgregent.cli.cluster_dir import HOST, ClusterDir, Node

TIMEOUT_S = 1.0
_BYTES_MAX = 4 << 20
Status = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Statuses:
    """Each node's answer, None where there was none within a second."""

    by_node: Mapping[str, Status | None]

    @property
    def best(self) -> Status | None:
        """The answer to believe: it knows the newest register."""
        answers = [status for status in self.by_node.values() if status is not None]
        return max(answers, key=_age_key, default=None)

    @property
    def primary(self) -> str | None:
        """The primary's name, as the best answer has it."""
        return self.best.get("primary") if self.best else None

    @property
    def silent(self) -> list[str]:
        """The nodes whose agents did not answer."""
        return [name for name, status in self.by_node.items() if status is None]


def _age_key(status: Status) -> tuple[int, int, int, bool]:
    register: Mapping[str, Any] = status.get("register") or {}
    numbers = (register.get(key) or 0 for key in ("version", "round", "term"))
    version, round_, term = (n if isinstance(n, int) else 0 for n in numbers)
    return version, round_, term, bool(status.get("serving"))


def ask_agents(cluster: ClusterDir) -> Statuses:
    """Ask all agents at once; takes at most a second."""
    return asyncio.run(fetch_statuses(cluster))


async def fetch_statuses(cluster: ClusterDir) -> Statuses:
    """Ask all agents at once; takes at most a second."""
    answers = await asyncio.gather(*(_status_of(node) for node in cluster.nodes))
    return Statuses({n.name: a for n, a in zip(cluster.nodes, answers, strict=True)})


async def _status_of(node: Node) -> Status | None:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            body = await _get(node.rest_port, "/pgregent/status")
        status = json.loads(body)
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
        return None
    if not isinstance(status, dict) or cast(Status, status).get("name") != node.name:
        return None
    return cast(Status, status)


async def _get(port: int, path: str) -> bytes:
    """One request in HTTP/1.0, whose answers end with the connection."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {HOST}:{port}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0] + b" ":
            raise ValueError("not OK")
        body = b""
        while chunk := await reader.read(1 << 16):
            body += chunk
            if len(body) > _BYTES_MAX:
                raise ValueError("too long")
        return body
    finally:
        writer.close()
