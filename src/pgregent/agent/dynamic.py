"""The dynamic configuration: in the DCS for all members, and a copy on each one's disk.

The first member to find none stores what its own file says under bootstrap.dcs; from then on that
section has no effect. A DCS that was emptied gets the copy back. What no agent could run with is
never stored and never kept: the copy is what was right last.
"""

import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from pgregent.config.dynamic import Dcs as Dynamic
from pgregent.config.dynamic import document, unsupported
from pgregent.config.load import LoadedDynamic, parse_dynamic
from pgregent.core.errors import Refused, Unavailable
from pgregent.ports.dcs import CasDone, CasResult, Dcs

log = logging.getLogger("pgregent")

COPY = "dynamic.json"


Check = Callable[[Dynamic], Awaitable[None]]
"""Raises Refused for what this member could not run with, though the schema lets it through."""


async def _no_check(dynamic: Dynamic) -> None:
    pass


class DynamicConfig:
    """What is in force now; `check` sees what is to be stored before it is."""

    def __init__(
        self,
        dcs: Dcs,
        key: str,
        state_dir: Path,
        bootstrap: Dynamic,
        check: Check = _no_check,
    ) -> None:
        self._dcs = dcs
        self._check = check
        self._key = key
        self._copy = state_dir / COPY
        self._text = document(bootstrap)
        self.in_force = bootstrap

    @property
    def document(self) -> dict[str, Any]:
        """The JSON that counts: what was right last."""
        found: dict[str, Any] = json.loads(self._text)
        return found

    async def read(self) -> tuple[dict[str, Any], int]:
        """What the DCS holds, and its version there. Raises Unavailable."""
        entry = (await self._dcs.read(self._key)).get(self._key)
        if entry is None:
            raise Unavailable("dcs", f"{self._key} is not there yet")
        try:
            before = json.loads(entry.value)
        except (ValueError, RecursionError):
            before = None
        if not isinstance(before, dict):
            raise Unavailable("dcs", f"{self._key} is no JSON object: replace it with PUT")
        return cast(dict[str, Any], before), entry.version

    async def patch(self, changes: Mapping[str, Any]) -> CasResult:
        """Lay `changes` over what the DCS holds, as JSON Merge Patch does: null removes a key.
        Raises Refused for what no agent would run with, and Unavailable; nothing changed then."""
        before, version = await self.read()
        after = merged(before, changes)
        return CasDone(version) if after == before else await self.exchange(version, after)

    async def with_changes(self, changes: Mapping[str, Any]) -> LoadedDynamic:
        """What `patch` would make of it. Raises as that."""
        before, _ = await self.read()
        loaded = _right(_compact(merged(before, changes)), f"the DCS key {self._key}")
        await self._check(loaded.dcs)
        return loaded

    async def exchange(self, version: int, document: Mapping[str, Any]) -> CasResult:
        """Store `document` if the DCS still holds that version. Raises as `patch`."""
        text = _compact(document)
        await self._check(_right(text, "the new configuration").dcs)
        result = await self._dcs.cas(self._key, version, text.encode())
        if isinstance(result, CasDone):
            self._keep(text)
        return result

    async def replace(self, document: Mapping[str, Any]) -> None:
        """Store it, whatever the DCS holds. Raises Refused as `patch`, and Unavailable: then it is
        not known whether it was stored."""
        text = _compact(document)
        await self._check(_right(text, "the new configuration").dcs)
        await self._dcs.put(self._key, text.encode())
        self._keep(text)

    async def load(self, on_warning: Callable[[str], None]) -> Dynamic:
        """From the DCS; while that is away or wrong, from the copy. Without a copy: from the file,
        if the DCS is away. Raises Refused for what is wrong then."""
        text, where, kept = self._text, "bootstrap.dcs", False
        with suppress(FileNotFoundError):
            text, where, kept = self._copy.read_text("utf-8", "replace"), str(self._copy), True
        try:
            stored = await self._stored(text, where)
            loaded = _right(stored, f"the DCS key {self._key}")
            text = stored
        except Unavailable as error:
            log.info("the dynamic configuration is taken from %s: %s", where, error)
            loaded = _right(text, where)
        except Refused as error:
            if not kept:
                raise
            loaded = _right(text, where)
            log.error("the dynamic configuration is taken from %s: %s", where, error)
        if loaded.dcs != self.in_force:
            for warning in loaded.warnings:
                on_warning(warning)
        self._keep(text)
        self.in_force = loaded.dcs
        return loaded.dcs

    async def watch(self, on_change: Check) -> None:
        """Until cancelled: put it back where the DCS forgot it, and have `on_change` use it when it
        was changed."""
        told = self._text
        async for _ in self._dcs.watch(self._key):
            try:
                text = await self._stored(self._text, str(self._copy))
                if text == told:
                    continue
                told = text
                loaded = _right(text, f"the DCS key {self._key}")
                await on_change(loaded.dcs)
                for warning in loaded.warnings:
                    log.warning("%s", warning)
                self._keep(text)
                self.in_force = loaded.dcs
            except Unavailable as error:
                log.debug("cannot read the dynamic configuration: %s", error)
            except Refused as error:
                log.error("the dynamic configuration was changed, and is wrong: %s", error)
            except Exception:
                log.exception("the dynamic configuration was changed, and cannot be used")

    async def _stored(self, ours: str, where: str) -> str:
        """What the DCS holds, which is `ours` (found in `where`) from now on if it held nothing."""
        found = (await self._dcs.read(self._key)).get(self._key)
        if found is None:
            _right(ours, where)
            await self._dcs.cas(self._key, 0, ours.encode())
            found = (await self._dcs.read(self._key)).get(self._key)
        if found is None:
            raise Unavailable("dcs", f"{self._key} could not be stored")
        return found.value.decode("utf-8", "replace")

    def _keep(self, text: str) -> None:
        self._text = text
        new = self._copy.with_suffix(".new")
        try:
            new.unlink(missing_ok=True)
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                # Else a power cut leaves an empty file under the name of a good one.
                os.fsync(file.fileno())
            new.replace(self._copy)
        except OSError as error:
            log.warning("cannot keep a copy of the dynamic configuration: %s", error)


def merged(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`before` with `changes` over it: mappings are merged, null removes, all else replaces."""
    after = dict(before)
    for key, value in changes.items():
        if value is None:
            after.pop(key, None)
        elif isinstance(value, dict):
            inner: Any = after.get(key)
            base = cast(dict[str, Any], inner if isinstance(inner, dict) else {})
            after[key] = merged(base, cast(dict[str, Any], value))
        else:
            after[key] = value
    return after


def _compact(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def _right(text: str, where: str) -> LoadedDynamic:
    """Raises Refused for what an agent would not run with."""
    loaded = parse_dynamic(text, where)
    if found := [f"{where}: {key}: {why}" for key, why in unsupported(loaded.dcs)]:
        raise Refused("\n".join(found))
    return loaded
