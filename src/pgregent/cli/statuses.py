"""What the living agents say: GET /pgregent/status of each, within one second."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

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
        return self.by_node[self.best_name] if self.best_name else None

    @property
    def best_name(self) -> str | None:
        """Who gave it."""
        answers = {name: status for name, status in self.by_node.items() if status is not None}
        return max(answers, key=lambda name: _age_key(answers[name]), default=None)

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
    numbers = (register.get(key) or 0 for key in ("seq", "round", "term"))
    version, round_, term = (n if isinstance(n, int) else 0 for n in numbers)
    return version, round_, term, bool(status.get("serving"))


async def fetch_statuses(
    agents: Mapping[str, tuple[str, int]], tls: ssl.SSLContext | None = None
) -> Statuses:
    """Ask all agents at once, by their names and addresses; takes at most a second."""
    answers = await asyncio.gather(*(_status_of(name, *agents[name], tls) for name in agents))
    return Statuses(dict(zip(agents, answers, strict=True)))


async def _status_of(name: str, host: str, port: int, tls: ssl.SSLContext | None) -> Status | None:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            code, body = await request(host, port, "GET", "/pgregent/status", tls=tls)
        status = json.loads(body) if code == 200 else None
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
        return None
    if not isinstance(status, dict) or cast(Status, status).get("name") != name:
        return None
    return cast(Status, status)


async def request(
    host: str,
    port: int,
    verb: str,
    path: str,
    *,
    body: bytes = b"",
    headers: str = "",
    tls: ssl.SSLContext | None = None,
) -> tuple[int, bytes]:
    """One request in HTTP/1.0, whose answers end with the connection: status code and body.

    `headers`: lines that end in CR LF. Raises OSError, ValueError, IncompleteReadError.
    """
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        head = f"{verb} {path} HTTP/1.0\r\nHost: {host}:{port}\r\n{headers}"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        try:
            answer = await reader.readuntil(b"\r\n\r\n")
            code = int(answer.split(b"\r\n", 1)[0].split()[1])
        except (asyncio.LimitOverrunError, IndexError):
            raise ValueError("no HTTP answer") from None
        found = b""
        while chunk := await reader.read(1 << 16):
            found += chunk
            if len(found) > _BYTES_MAX:
                raise ValueError("too long")
        return code, found
    finally:
        writer.close()
