"""Events for people and tools: one JSON object a line, beside the data directory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgregent.core.effects import Announce

VERSION = 1
ROTATE_BYTES = 5_000_000


class EventLog:
    """Appends to a file; `up` and people read it. The file before the current one is kept."""

    def __init__(self, path: Path, member: str, epoch: Callable[[], float]) -> None:
        self._path = path
        self._member = member
        self._epoch = epoch

    def write(self, effect: Announce) -> None:
        """What the core announced."""
        fields: dict[str, Any] = {"why": effect.why, "term": effect.term}
        if effect.how:
            fields["how"] = effect.how
        if effect.event == "primary":
            fields["outage_ms"] = round(effect.outage * 1000)
        self._append(effect.event, fields)

    def set_aside(self, path: Path, size: int) -> None:
        """A data directory was kept under another name."""
        why = f"the data directory that was replaced is kept in {path}"
        self._append("set_aside", {"why": why, "path": str(path), "bytes": size})

    def _append(self, event: str, fields: dict[str, Any]) -> None:
        line = {
            "v": VERSION,
            "ts": round(self._epoch(), 3),
            "event": event,
            "member": self._member,
            **fields,
        }
        try:
            if self._path.exists() and self._path.stat().st_size > ROTATE_BYTES:
                self._path.rename(self._path.with_suffix(".old.jsonl"))
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError:
            # Telling people is not worth stopping for: the log has it too.
            return
