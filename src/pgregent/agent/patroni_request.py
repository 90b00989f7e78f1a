"""The key `failover`: what patronictl asks for where no agent answers it."""

import json
from typing import Any, cast

from pgregent.core.errors import Refused
from pgregent.core.events import Switchover
from pgregent.core.view import State


def requested(state: State, value: bytes) -> Switchover | None:
    """What is asked of the primary, which this member is; None: nothing. Whether it can be done is
    the core's to say. Raises Refused."""
    request = _request(value)
    leader, candidate = _name(request, "leader"), _name(request, "member")
    if not leader and not candidate:
        return None
    if request.get("scheduled_at"):
        raise Refused("scheduling is not supported yet: ask without scheduled_at when it is due")
    register = state.register
    if register is None:
        raise Refused("there is no primary now")
    primary = register.primary.name
    if leader and leader != primary:
        raise Refused(f"leader name does not match: {primary} is the leader")
    if candidate == primary:
        raise Refused(f"{candidate} is the leader already")
    return Switchover(register.term, candidate)


def _request(value: bytes) -> dict[str, Any]:
    text = value.decode(errors="replace").strip()
    if not text:
        return {}
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(f'found {text[:80]!r}, expected {{"leader": "n1", "member": "n2"}}')
    return cast(dict[str, Any], found)


def _name(request: dict[str, Any], key: str) -> str:
    value = request.get(key)
    if value is not None and not isinstance(value, str):
        raise Refused(f"{key}: found {value!r}, expected a member's name")
    return value or ""
