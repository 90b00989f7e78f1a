"""What Patroni's keys in the DCS say, and whose agents run by them."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from pgregent.agent import patroni_documents as documents
from pgregent.core.adoption import Ended, PatronisWord
from pgregent.ports.dcs import Versioned

Entries = Mapping[str, Versioned]
"""The keys under <namespace>/<scope>, their full paths."""


def running(entries: Entries, base: str, *, leader_counts: bool = True) -> tuple[str, ...]:
    """The members whose Patroni runs: its `leader` and its members' keys go when it ends.

    Not `leader_counts`: where agents of ours may have left that key.
    """
    above = f"{base}/members/"
    names = {k.removeprefix(above): e.value for k, e in entries.items() if k.startswith(above)}
    theirs = {name for name, value in names.items() if not documents.is_ours(value)}
    if leader_counts and (leader := entries.get(f"{base}/leader")) is not None:
        name = leader.value.decode(errors="replace")
        if name not in names:
            theirs.add(name)
    return tuple(sorted(theirs))


def agents(entries: Entries, base: str) -> tuple[str, ...]:
    """The members whose agents of ours run: their keys go as Patroni's do."""
    above = f"{base}/members/"
    ours = (k for k, e in entries.items() if k.startswith(above) and documents.is_ours(e.value))
    return tuple(sorted(key.removeprefix(above) for key in ours))


def word(entries: Entries, base: str, *, leader_counts: bool = True) -> PatronisWord:
    """What its keys say; what is absent, or is not as Patroni writes it, says nothing."""
    sync, status = _json(entries, f"{base}/sync"), _json(entries, f"{base}/status")
    told = cast(dict[str, Any], sync) if isinstance(sync, dict) else {}
    end = cast(dict[str, Any], status).get("optime") if isinstance(status, dict) else status
    system_id = entries.get(f"{base}/initialize")
    return PatronisWord(
        running=running(entries, base, leader_counts=leader_counts),
        system_id=system_id.value.decode(errors="replace") if system_id is not None else "",
        primary=str(told.get("leader") or ""),
        log_end=end if isinstance(end, int) else 0,
        history=tuple(_ended(_json(entries, f"{base}/history"))),
    )


def _json(entries: Entries, key: str) -> Any:
    entry = entries.get(key)
    try:
        return json.loads(entry.value) if entry is not None else None
    except (ValueError, RecursionError):
        return None


def _ended(lines: Any) -> list[Ended]:
    """[timeline, LSN, why, when, who came next]; the last two only from Patroni 2.0 on."""
    found: list[Ended] = []
    for line in cast(list[Any], lines) if isinstance(lines, list) else []:
        match line:
            case [int(timeline), int(lsn), str(why), *rest]:
                at, who = [*map(str, rest), "", ""][:2]
                found.append(Ended(timeline, lsn, why, _epoch(at), who))
            case _:
                pass
    return found


def _epoch(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
