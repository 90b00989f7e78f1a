"""Watching a prefix of etcd, and noticing when the watch has gone silent.

A frozen server, or a router that forgot the connection, leaves a watch open for ever without a
word, and the gateway has no way to ask it for progress. So each watcher also looks itself, once in
PULSE_S: what that shows and the watch does not tell until the next look was missed.
"""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from typing import Any, cast

from pgregent.adapters.dcs.etcd_link import (
    CALL_TIMEOUT_S,
    Declined,
    Link,
    Message,
    Unsure,
    encoded,
)
from pgregent.core.errors import Unavailable

PULSE_S = 1.0
PAUSE_S = 0.2
SILENT = "it missed a change"

log = logging.getLogger("pgregent")


def ranges(prefix: str) -> list[dict[str, Any]]:
    """Return etcd's ranges for the key `prefix` and for all that is below it as a path."""
    path = prefix.rstrip("/")
    # "0" comes after "/".
    below = {"key": encoded(f"{path}/"), "range_end": encoded(f"{path}0")}
    return [{"key": encoded(path)}, below] if path else [below]


class Watcher:
    """One `watch`, on one link after another.

    `changed` is set when etcd tells of a change, and whenever the watch is complete on a new
    stream, because what happened before that is unknown. It never asks for an old revision, so
    none that it needs can be compacted.
    """

    def __init__(self, prefix: str) -> None:
        self.changed = asyncio.Event()
        self.complete = asyncio.Event()
        self._prefix = prefix
        self._ranges = ranges(prefix)
        self._since = 0
        self._heard = 0
        self._following: asyncio.Task[None] | None = None

    def begin(self, link: Link) -> None:
        """Watch on this link until it ends; what happened before is unknown."""
        self.stop()
        self.complete.clear()
        self._following = asyncio.create_task(self._follow(link))

    def stop(self) -> None:
        """End it."""
        if self._following is not None:
            self._following.cancel()

    async def _follow(self, link: Link) -> None:
        while not link.ended.is_set():
            self.complete.clear()
            tasks = [asyncio.create_task(t) for t in (self._listen(link), self._look(link))]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            ended = done.pop()
            # An answer that is none of etcd's must not end the watch for ever.
            why = repr(error) if (error := ended.exception()) else ended.result()
            if not link.ended.is_set():
                log.warning("watch of %s at %s: %s, watching anew", self._prefix, link.url, why)
                await asyncio.sleep(PAUSE_S)

    async def _listen(self, link: Link) -> str:
        """Listen to one stream; returns why it is of no use any more."""
        try:
            # Renews the token, which a stream cannot, and leaves a member that is gone.
            await self._newest(link)
        except (Unavailable, Declined, Unsure) as error:
            return str(error)
        body = "\n".join(json.dumps({"create_request": range_}) for range_ in self._ranges)
        created = 0
        try:
            async with (
                asyncio.timeout(CALL_TIMEOUT_S) as bound,
                link.stream("watch", body.encode()) as messages,
            ):
                async for message in messages:
                    result = message.get("result")
                    if result is None or result.get("canceled"):
                        return _reason(message)
                    if result.get("created"):
                        created += 1
                        self._since = int(result["header"]["revision"])
                        if created == len(self._ranges):
                            bound.reschedule(None)
                            self.complete.set()
                            self.changed.set()
                    if events := result.get("events"):
                        self._heard += len(events)
                        self.changed.set()
        except TimeoutError:
            link.end(f"no answer to a watch within {CALL_TIMEOUT_S:g} s")
        except Unsure as error:
            return str(error)
        return "it was closed"

    async def _look(self, link: Link) -> str:
        """Look by reading; returns why the stream, or the link, is of no use any more."""
        await self.complete.wait()
        before: tuple[int, int] | None = None
        heard_before, due = self._heard, None
        while True:
            heard = self._heard
            try:
                now = await self._newest(link)
            except (Unavailable, Declined, Unsure) as error:
                return str(error)
            if due is not None and self._heard <= due:
                return SILENT
            has_changed = now[0] > self._since if before is None else now != before
            due = heard_before if has_changed else None
            before, heard_before = now, heard
            await asyncio.sleep(PULSE_S)

    async def _newest(self, link: Link) -> tuple[int, int]:
        """Return the highest revision of the keys, and how many there are."""
        order = {"sort_order": "DESCEND", "sort_target": "MOD", "limit": 1, "keys_only": True}
        looks = [{"request_range": {**range_, **order}} for range_ in self._ranges]
        deadline = time.monotonic() + CALL_TIMEOUT_S
        answer = await link.ask("kv/txn", {"success": looks}, deadline)
        found = [part.get("response_range", {}) for part in answer.get("responses", [])]
        newest = [int(kv["mod_revision"]) for part in found for kv in part.get("kvs", [])]
        return max(newest, default=0), sum(int(part.get("count", 0)) for part in found)


def _reason(message: Message) -> str:
    result: Message = message.get("result") or {}
    if int(result.get("compact_revision", 0)):
        return "it was too slow, and what it missed is compacted"
    error: Any = message.get("error") or message
    said = cast(Message, error).get("message") if isinstance(error, Mapping) else error
    return str(result.get("cancel_reason") or said or "it was canceled")
