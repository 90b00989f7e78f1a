"""What Patroni's keys in the DCS say, from what this member knows."""

import json
from collections.abc import Mapping
from typing import Any, cast

from pgregent import __version__
from pgregent.api import patroni
from pgregent.api.node import Node

_OWN = "pgregent"
_SHARED = (
    *("state", "role", "tags", "pending_restart", "pending_restart_reason"),
    *("timeline", "replication_state", "pause"),
)
_POSITIONS = ("xlog_location", "receive_lsn", "replay_lsn", "optime")

Document = Mapping[str, Any]


def member(node: Node) -> Document:
    """members/<name>. What is not known is left out."""
    settings, told = node.state.settings, patroni.member(node)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    xlog = told.get("xlog", {})
    positions = {
        "xlog_location": xlog.get("location", xlog.get("received_location")),
        "receive_lsn": xlog.get("received_location"),
        "replay_lsn": xlog.get("replayed_location"),
    }
    return {
        "conn_url": f"postgres://{host}:{settings.port}/postgres",
        "api_url": settings.api_url,
        "version": patroni.COMPATIBLE_VERSION,
        **{key: told[key] for key in _SHARED if key in told},
        **{key: lsn for key, lsn in positions.items() if lsn},
        _OWN: __version__,
    }


def sync(node: Node) -> Document:
    """Who acknowledges commits. `quorum`: how many of the others a successor has to ask, so that
    every commit is on one of them or on itself."""
    register = node.state.register
    rule = register.rule if register is not None and register.rules else None
    if register is None or rule is None or not rule.k:
        return {"leader": node.state.me.name, "sync_standby": None, "quorum": 0}
    names = sorted(m.name for m in rule.members)
    return {
        "leader": register.primary.name,
        "sync_standby": ",".join(names),
        "quorum": len(names) - rule.k,
    }


def status(node: Node) -> Document:
    """How far the primary's log goes."""
    return {"optime": node.primary_lsn or 0}


def text(document: Any) -> str:
    """The key's value: plain text, or JSON."""
    return document if isinstance(document, str) else json.dumps(document, separators=(",", ":"))


def settled(document: Any) -> Any:
    """It without what changes all the time."""
    if not isinstance(document, Mapping):
        return document
    found = cast(Document, document)
    return {key: value for key, value in found.items() if key not in _POSITIONS}


def is_ours(value: bytes) -> bool:
    """Whether a members/<name> is one of ours, and not Patroni's."""
    return _OWN in _object(value)


def is_patronis(value: bytes) -> bool:
    """Whether a members/<name> is surely Patroni's."""
    found = _object(value)
    return "api_url" in found and _OWN not in found


def _object(value: bytes) -> Mapping[str, Any]:
    try:
        found: Any = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return cast(Document, found) if isinstance(found, dict) else {}
