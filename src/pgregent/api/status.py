"""What an agent tells people and tools about the cluster, from memory."""

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from pgregent.agent.codec import plain
from pgregent.api.node import Node, is_silent, lsn_text
from pgregent.api.server import reads
from pgregent.core import reasons
from pgregent.core.effects import Clone
from pgregent.core.publish import record_of, serving
from pgregent.core.types import PgState, Record, Register
from pgregent.core.view import Restarting, State

VERSION = 1

Processes = Callable[[], Mapping[str, int | None]]


def status(node: Node, processes: Processes) -> dict[str, Any]:
    """The cluster as this member sees it."""
    state = node.state
    own = record_of(state)
    records = reasons.all_records(state, own)
    register = state.register
    primary = register.primary.name if register and register.term else None
    holder = records.get(primary) if primary else None
    is_serving = serving(state) if primary == state.me.name else bool(holder and holder.serving)
    end = holder.position.lsn if holder and holder.position else 0
    return {
        "v": VERSION,
        "scope": node.scope,
        "name": state.me.name,
        "register": plain(register) if register else None,
        "primary": primary,
        "serving": is_serving,
        "term": register.term if register else 0,
        "why": reasons.cluster_why(state, own),
        "succession": reasons.succession(state, own),
        "if_dies": reasons.if_dies(state, own),
        "members": [_member(state, r, register, end) for _, r in sorted(records.items())],
        "dcs": {
            "ok": state.dcs_ok,
            "why": state.dcs_why,
            "lost": (state.lost_why or "writing it again") if state.register_lost else "",
        },
        "history": [
            {
                "term": t.term,
                "member": t.writer.name,
                "at": t.at,
                "why": t.why,
                "ended_timeline": t.parent,
                "ended_lsn": t.start,
            }
            for t in (register.terms if register else ())
        ],
        "switchover": state.switchover is not None,
        "paused": state.settings.paused,
        "restarting": state.restarting is not Restarting.NO,
        "reinitializing": state.reinitializing or isinstance(state.pg, Clone),
        "started_at": started_at(state),
        "state": node.pg_state,
        "server_version": node.server_version(),
        "tags": node.tags_set,
        "pending_restart": node.waits_for_restart,
        "processes": dict(processes()),
    }


def started_at(state: State) -> str:
    """Tells one start of the server from another, and one life of this agent, which may have found
    the server running."""
    return f"{state.started_at:.6f} {state.server_started_at:.6f}"


def _member(state: State, record: Record, register: Register | None, end: int) -> dict[str, Any]:
    name = record.incarnation.name
    mine = name == state.me.name
    heard = state.now if mine else state.peers[name].heard_at
    ago = state.now - heard
    silent = is_silent(state, record)
    primary = register is not None and register.primary == record.incarnation
    receive = None if primary or record.position is None else record.position.lsn
    replay = None if primary or record.position is None else record.replay_lsn
    return {
        "name": name,
        "incarnation": record.incarnation.id,
        "host": record.host,
        "port": record.port,
        "api_url": record.api_url,
        "role": _role(record, register),
        "state": "not answering" if silent else _state(record),
        "timeline": record.position.timeline if record.position else None,
        "receive_lsn": lsn_text(receive),
        "receive_lag": _lag(receive, end),
        "replay_lsn": lsn_text(replay),
        "replay_lag": _lag(replay, end),
        "serving": record.serving and not silent,
        "why": "its agent does not answer" if silent else record.why,
        "heard_ms_ago": int(ago * 1000) if ago < float("inf") else None,
    }


def _role(record: Record, register: Register | None) -> str:
    if register is None:
        return "replica"
    if register.primary == record.incarnation:
        return "leader"
    in_rule = register.rules and record.incarnation in register.rule.members
    return "quorum_standby" if in_rule else "replica"


def _state(record: Record) -> str:
    if record.state is PgState.STANDBY:
        return "streaming" if record.streaming else "running"
    return "running" if record.state is PgState.PRIMARY else record.state.value


def _lag(lsn: int | None, end: int) -> int | None:
    return None if lsn is None or not end else max(0, end - lsn)


def routes(node: Node, processes: Processes) -> list[web.RouteDef]:
    """The agent's own status endpoint."""

    def answer(request: web.Request) -> web.Response:
        return web.json_response(status(node, processes))

    return reads("/pgregent/status", answer)
