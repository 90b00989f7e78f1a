"""Events: the agents' files are followed, and everything is printed for people or programs."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, cast

Event = Mapping[str, Any]
_CHUNK_BYTES = 1 << 20
_REPEATED_S = 2.0
_STYLES = {
    "ready": "bold green",
    "primary": "bold",
    "exited": "red",
    "postgres_exited": "red",
    "election": "yellow",
    "set_aside": "yellow",
}


class EventFile:
    """Follows one file of JSON lines that grows, and may be replaced or cut."""

    def __init__(self, path: Path, from_end: bool) -> None:
        self._path = path
        self._inode, self._offset = 0, 0
        if from_end and (found := self._stat()) is not None:
            self._inode, self._offset = found.st_ino, found.st_size

    def poll(self) -> list[Event]:
        """The complete lines that were added since the last call."""
        found = self._stat()
        if found is None or (found.st_ino, found.st_size) == (self._inode, self._offset):
            return []
        if found.st_ino != self._inode or found.st_size < self._offset:
            self._inode, self._offset = found.st_ino, 0
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(_CHUNK_BYTES)
        except OSError:
            return []
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) == _CHUNK_BYTES:
            end = len(data)  # not a line of ours: do not read it again for ever
        self._offset += end
        return [event for line in data[:end].splitlines() if (event := _parse(line))]

    def _stat(self) -> os.stat_result | None:
        try:
            return self._path.stat()
        except OSError:
            return None


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return cast(Event, event) if isinstance(event, dict) else None


def own_event(kind: str, why: str, **fields: object) -> Event:
    """An event of `up` itself, in the agents' format."""
    return {"v": 1, "ts": time.time(), "event": kind, "why": why, **fields}


@dataclass(slots=True)
class JsonPrinter:
    """One JSON line on stdout per event, and nothing else."""

    out: TextIO = field(default_factory=lambda: sys.stdout)

    def show(self, event: Event) -> None:
        """Print an event; a reader that went away is no reason to stop a cluster."""
        try:
            self.out.write(json.dumps(event, ensure_ascii=False) + "\n")
            self.out.flush()
        except (BrokenPipeError, ValueError):
            self.out = open(os.devnull, "w")  # noqa: SIM115

    def close(self) -> None:
        """Nothing is held."""


class PrettyPrinter:
    """One line per event for people; on a terminal, progress is a line that is written over."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._status = self._console.status("starting") if self._console.is_terminal else None
        self._dead = False
        self._said: dict[tuple[str, str], float] = {}

    def show(self, event: Event) -> None:
        """Print an event."""
        from rich.text import Text

        kind, why = str(event.get("event", "?")), str(event.get("why", ""))
        if kind == "progress" and self._status is not None:
            self._status.update(Text(why))
            self._status.start()
            return
        if kind in ("ready", "stopped") and self._status is not None:
            self._status.stop()
        if self._was_said(kind, why):
            return
        clock = time.strftime("%H:%M:%S", time.localtime(float(event.get("ts") or time.time())))
        who = str(event.get("member") or event.get("process") or "")
        text = Text(f"{clock}  {who:<8}  ")
        text.append(f"{kind.replace('_', ' '):<12}", style=_STYLES.get(kind, "cyan"))
        outage_ms = event.get("outage_ms")
        outage = f" (writes were out for {outage_ms} ms)" if outage_ms else ""
        self._print(text.append(f"  {why}{outage}"))
        for line in _epilogue(event) if kind == "ready" else ():
            self._print(Text(line))

    def _was_said(self, kind: str, why: str) -> bool:
        """Whether another member has said the same just now."""
        now = time.monotonic()
        if now - self._said.get((kind, why), -_REPEATED_S) < _REPEATED_S:
            return kind in ("election", "register", "suspect")
        self._said = {k: at for k, at in self._said.items() if now - at < _REPEATED_S}
        self._said[kind, why] = now
        return False

    def close(self) -> None:
        """Give the terminal back."""
        if self._status is not None:
            self._status.stop()

    def _print(self, text: Any) -> None:
        if self._dead:
            return
        try:
            self._console.print(text)
        except BrokenPipeError:
            self._dead = True


Printer = JsonPrinter | PrettyPrinter
Emit = Callable[[Event], None]


def _epilogue(event: Event) -> list[str]:
    members = cast(list[dict[str, Any]], event.get("members", []))
    urls = "\n".join(f"    {m['name']}  {m['api_url']}/pgregent/status" for m in members)
    directory = event.get("directory", "")
    pgregent = "pgregent" if shutil.which("pgregent") else sys.argv[0]
    return [
        "",
        f"  read-write   {event['dsn']}",
        f"  read-only    {event['dsn_ro']}",
        "  REST",
        urls,
        "",
        "  Try:",
        f'    {event.get("psql", "psql")} "{event["dsn"]}"',
        f"    {pgregent} list -d {directory}",
        f"    kill -9 $({pgregent} ps -q primary -d {directory})",
        "",
        "  Ctrl-C stops the cluster; the same command resumes it.",
        "",
    ]
