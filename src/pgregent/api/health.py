"""Patroni's health checks: which of them this member passes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pgregent.api.node import Node
from pgregent.core.errors import Refused

PRIMARY = frozenset({"/", "/primary", "/master", "/read-write", "/leader"})
STANDBY_LEADER = frozenset({"/standby-leader", "/standby_leader"})
STANDBY = frozenset(
    {"/replica", "/sync", "/synchronous", "/quorum", "/async", "/asynchronous"}
    | {"/read-only", "/read-only-sync", "/read-only-synchronous", "/read-only-quorum"}
)
PATHS = PRIMARY | STANDBY_LEADER | STANDBY | {"/health"}

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*(B|kB|MB|GB|TB)?")
_UNITS = {"B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


@dataclass(frozen=True, slots=True)
class Query:
    """What a check asks for besides its path; None: nothing."""

    lag: int | None
    replication_state: str | None
    tags: Mapping[str, str]


def healthy(node: Node, path: str, parameters: Mapping[str, str]) -> bool:
    """Whether the check `path` (one of PATHS) passes. Raises Refused for a bad parameter."""
    if path in PRIMARY:
        return node.serving
    if path in STANDBY_LEADER:
        # There are no standby clusters yet.
        return False
    query = parse(parameters)
    if not _has_tags(node, query):
        return False
    if path == "/health":
        return node.pg_state == "running"
    if path.startswith("/read-only") and node.serving:
        return True
    return _is_replica(node, query) and _is_of_kind(node, path)


def live(node: Node) -> bool:
    """Whether the agent does its work."""
    return node.alive


def ready(node: Node, parameters: Mapping[str, str]) -> bool:
    """Whether this member serves writes, or streams and is not too far behind. Raises Refused."""
    limit = _lag(parameters)
    mode = parameters.get("mode", "apply")
    if mode not in ("apply", "write"):
        raise Refused(f"mode: found {mode!r}, expected apply or write")
    if node.serving:
        return True
    behind = node.lag(received=mode == "write")
    limit = node.maximum_lag if limit is None else limit
    streams = node.replica and node.replication_state == "streaming"
    return streams and behind is not None and behind <= limit


def parse(parameters: Mapping[str, str]) -> Query:
    """The parameters of a check; others than its own are ignored. Raises Refused."""
    prefix = "tag_"
    return Query(
        lag=_lag(parameters),
        replication_state=parameters.get("replication_state"),
        tags={k.removeprefix(prefix): v for k, v in parameters.items() if k.startswith(prefix)},
    )


def _lag(parameters: Mapping[str, str]) -> int | None:
    text = parameters.get("lag")
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise Refused(
            f"lag: found {text[:40]!r}, expected bytes, or a number with kB, MB, GB or TB, "
            "as in lag=16kB"
        )
    return int(float(found[1]) * _UNITS[found[2] or "B"])


def _has_tags(node: Node, query: Query) -> bool:
    own = node.tags_set
    for key, wanted in query.tags.items():
        value = own.get(key)
        if value is None:
            return False
        if (value if isinstance(value, str) else str(value).lower()) != wanted:
            return False
    return True


def _is_replica(node: Node, query: Query) -> bool:
    if not node.replica or node.state.settings.noloadbalance:
        return False
    if query.replication_state is not None and query.replication_state != node.replication_state:
        return False
    if query.lag is None:
        return True
    behind = node.lag()
    return behind is not None and behind <= query.lag


def _is_of_kind(node: Node, path: str) -> bool:
    match path.rpartition("-")[2].removeprefix("/"):
        case "sync" | "synchronous":
            return node.synchronous and node.synchronous_mode == "on"
        case "quorum":
            return node.synchronous and node.synchronous_mode == "quorum"
        case "async" | "asynchronous":
            return not node.synchronous
        case _:
            return True
