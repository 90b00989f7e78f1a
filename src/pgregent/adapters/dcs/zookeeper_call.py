"""One call on one connection to ZooKeeper: its deadline, and what the server's answers mean."""

import asyncio
import posixpath
import time
from dataclasses import dataclass
from typing import Any, cast

from kazoo.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
    BadVersionError,
    InvalidACLError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
    RuntimeInconsistency,
)

from pgregent.adapters.dcs.zookeeper_link import Answer, Link, Request
from pgregent.core.errors import Unavailable

CALL_TIMEOUT_S = 1.2
# What the server says when it surely did nothing.
NOT_DONE = (BadVersionError, InvalidACLError, NoAuthError, NodeExistsError, NoNodeError)


class Unsure(Exception):
    """No reply, or one that does not tell what happened."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call's connection and its deadline, in time.monotonic() seconds."""

    link: Link
    deadline: float

    async def answers(self, *requests: Request) -> list[Answer]:
        """Send all, then return the answers: kazoo's results, or the server's refusals (NOT_DONE).

        Raises Unsure when any of them is missing, and ends a connection that is too slow.
        """
        futures = [self.link.ask(request) for request in requests]
        if futures:
            remaining = max(0.0, self.deadline - time.monotonic())
            await asyncio.wait(futures, timeout=remaining)
        if not all(future.done() for future in futures):
            self.link.end(f"no answer within {CALL_TIMEOUT_S:g} s")
            raise Unsure(self.link.why)
        answers = [future.result() for future in futures]
        for answer in answers:
            for part in parts(answer):
                if isinstance(part, Exception) and not isinstance(part, NOT_DONE):
                    raise Unsure(f"{type(part).__name__}, {self.link.why}")
        return answers


def parts(answer: Answer) -> list[Any]:
    """Return a transaction's results without those that only say that another one failed."""
    if not isinstance(answer, list):
        return [answer]
    parts = cast(list[Any], answer)
    failed = [p for p in parts if isinstance(p, Exception)]
    reasons = [p for p in failed if not isinstance(p, RolledBackError | RuntimeInconsistency)]
    return reasons or failed or parts


def done(answer: Answer, path: str) -> Any:
    """Return the answer, or raise Unavailable for a refusal."""
    match answer:
        case NoAuthError():
            reason = f"no permission for {path}: see zookeeper.auth_data and the ACLs there"
        case InvalidACLError():
            reason = f"ZooKeeper does not accept zookeeper.set_acls (for {path})"
        case Exception():
            reason = f"{path}: {type(answer).__name__}"
        case _:
            return answer
    raise Unavailable("dcs", reason)


def creation(path: str, value: bytes | None) -> Request:
    """Return the request that creates it."""
    return lambda client: client.create_async(path, value)


def parents(key: str) -> list[str]:
    """Return the paths above the key, the highest first."""
    path, paths = posixpath.dirname(key), list[str]()
    while path != "/":
        paths.insert(0, path)
        path = posixpath.dirname(path)
    return paths
