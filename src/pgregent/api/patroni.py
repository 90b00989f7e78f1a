"""The JSON documents of Patroni's API: one member, the cluster, its history."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pgregent import __version__
from pgregent.api.node import Node, is_silent, lsn_text, state_word
from pgregent.core import reasons
from pgregent.core.publish import record_of
from pgregent.core.types import PgState, Record

COMPATIBLE_VERSION = "4.1.4"
"""The Patroni whose names and codes these are: tools look at it to know what to expect."""


def member(node: Node) -> dict[str, Any]:
    """GET /patroni, and the body of every health check. What is not known is left out."""
    state = node.state
    document: dict[str, Any] = {"state": node.pg_state, "role": node.role}
    if node.pg_state == "running":
        document |= _running(node)
    if node.synchronous:
        document[f"{_kind(node)}_standby"] = True
    if node.unlocked:
        document["cluster_unlocked"] = True
    if node.without_dcs:
        document["failsafe_mode_is_active"] = True
    if node.state.settings.paused:
        document["pause"] = True
    document["dcs_last_seen"] = node.dcs_last_seen
    if node.tags_set:
        document["tags"] = node.tags_set
    document |= _pending_restart(node)
    system_id = state.postgres.system_id or (state.register.system_id if state.register else "")
    if system_id:
        document["database_system_identifier"] = system_id
    document["patroni"] = {
        "version": COMPATIBLE_VERSION,
        "scope": node.scope,
        "name": state.me.name,
    }
    document["pgregent"] = _own(node)
    return document


def _running(node: Node) -> dict[str, Any]:
    postgres = node.state.postgres
    position = postgres.position
    found: dict[str, Any] = {}
    if (version := node.server_version()) is not None:
        found["server_version"] = version
    if postgres.state is PgState.PRIMARY:
        found["xlog"] = {"location": position.lsn if position else 0}
        found["replication"] = _replication(node)
    else:
        found["xlog"] = {
            "received_location": position.lsn if position else 0,
            "replayed_location": postgres.replay_lsn,
            "paused": postgres.replay_paused,
        }
        if node.replication_state is not None:
            found["replication_state"] = node.replication_state
    if position is not None:
        found["timeline"] = position.timeline
    return found


def _replication(node: Node) -> list[dict[str, Any]]:
    register = node.state.register
    rule = register.rule if register is not None and register.rules else None
    labels = {m.label.lower() for m in rule.members} if rule is not None and rule.k else set[str]()
    rows: list[dict[str, Any]] = []
    for walsender in node.state.postgres.walsenders:
        waits = walsender.application_name.lower() in labels
        row: dict[str, Any] = {"application_name": walsender.application_name}
        if walsender.streaming:
            row["state"] = "streaming"
        row |= {"sync_state": "quorum" if waits else "async", "sync_priority": int(waits)}
        rows.append(row)
    return rows


def _pending_restart(node: Node) -> dict[str, Any]:
    if not node.waits_for_restart:
        return {}
    reasons_of = {
        name: {"old_value": old, "new_value": new}
        for name, (old, new) in node.waits_for_restart.items()
    }
    return {"pending_restart": True, "pending_restart_reason": reasons_of}


def _own(node: Node) -> dict[str, Any]:
    register = node.state.register
    return {
        "version": __version__,
        "serving": node.serving,
        "why": node.state.why,
        "term": register.term if register else 0,
        "round": register.round if register else 0,
        "electing": register.electing if register else False,
        "rules": [str(rule) for rule in register.rules] if register else [],
    }


def _kind(node: Node) -> str:
    return "sync" if node.synchronous_mode == "on" else "quorum"


def cluster(node: Node, pending: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """GET /cluster: every member that is known, by name. `pending`: what the other members' agents
    said of their `pending_restart`, which their records do not tell."""
    records = reasons.all_records(node.state, record_of(node.state))
    pause = {"pause": True} if node.state.settings.paused else {}
    return {
        "members": [
            _member(node, record, pending.get(name, {})) for name, record in sorted(records.items())
        ],
        "scope": node.scope,
        **pause,
    }


def _member(node: Node, record: Record, pending: Mapping[str, Any]) -> dict[str, Any]:
    leader = _leads(node, record)
    found: dict[str, Any] = {
        "name": record.incarnation.name,
        "role": "leader" if leader else _standby_role(node, record),
        "state": _state(node, record),
        "api_url": record.api_url,
        "host": record.host,
        "port": record.port,
    }
    if record.position is not None:
        found["timeline"] = record.position.timeline
    found |= _pending_restart(node) if record.incarnation == node.state.me else pending
    if tags := _tags(node, record):
        found["tags"] = tags
    return found if leader else found | _lags(node, record)


def _leads(node: Node, record: Record) -> bool:
    register = node.state.register
    return register is not None and not node.unlocked and register.primary == record.incarnation


def _standby_role(node: Node, record: Record) -> str:
    register = node.state.register
    waits = register is not None and register.rules and record.incarnation in register.rule.members
    return f"{_kind(node)}_standby" if waits else "replica"


def _state(node: Node, record: Record) -> str:
    if record.incarnation == node.state.me:
        return node.replication_state or node.pg_state
    if is_silent(node.state, record):
        return "unknown"
    streams = record.state is PgState.STANDBY and record.streaming
    return "streaming" if streams else state_word(record.state)


def _tags(node: Node, record: Record) -> dict[str, object]:
    if record.incarnation == node.state.me:
        return node.tags_set
    # A peer's record has what these tags come to, not the tags.
    flags = {
        "nofailover": not record.eligible,
        "noloadbalance": not record.balanced,
        "nosync": not record.sync,
    }
    return {tag: True for tag, on in flags.items() if on}


def _lags(node: Node, record: Record) -> dict[str, Any]:
    end = node.primary_lsn
    received = record.position.lsn if record.position is not None else None
    replayed = record.replay_lsn if received is not None else None
    found: dict[str, Any] = {}
    for lsn_key, lag_key, lsn in (
        ("receive_lsn", "receive_lag", received),
        ("replay_lsn", "replay_lag", replayed),
        ("lsn", "lag", received),
    ):
        found[lsn_key] = lsn_text(lsn) or "unknown"
        found[lag_key] = "unknown" if lsn is None or end is None else max(0, end - lsn)
    return found


def history(node: Node) -> list[list[Any]]:
    """GET /history: each timeline that ended, where and why, when, and who came next."""
    register = node.state.register
    return [
        [t.parent, t.start, t.why, datetime.fromtimestamp(t.at, UTC).isoformat(), t.writer.name]
        for t in (register.terms if register is not None else ())
        if t.parent
    ]
