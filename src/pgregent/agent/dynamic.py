"""The dynamic configuration: in the DCS for all members, and a copy on each one's disk.

The first member to find none stores what its own file says under bootstrap.dcs; from then on that
section has no effect. A DCS that was emptied gets the copy back. What no agent could run with is
never stored and never kept: the copy is what was right last.
"""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pgregent.config.dynamic import Dcs as Dynamic
from pgregent.config.dynamic import document, unsupported
from pgregent.config.load import LoadedDynamic, parse_dynamic
from pgregent.core.errors import Refused, Unavailable
from pgregent.ports.dcs import Dcs

log = logging.getLogger("pgregent")

COPY = "dynamic.json"


class DynamicConfig:
    """What is in force for this agent's life: changes take effect when it starts again."""

    def __init__(self, dcs: Dcs, key: str, state_dir: Path, bootstrap: Dynamic) -> None:
        self._dcs = dcs
        self._key = key
        self._copy = state_dir / COPY
        self._text = document(bootstrap)
        self.in_force = bootstrap

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

    async def watch(self) -> None:
        """Until cancelled: put it back where the DCS forgot it, and tell when it was changed."""
        told = self._text
        async for _ in self._dcs.watch(self._key):
            try:
                text = await self._stored(self._text, str(self._copy))
                if text == told:
                    continue
                told = text
                _right(text, f"the DCS key {self._key}")
                self._keep(text)
                log.warning("the dynamic configuration was changed: restart the agent to use it")
            except Unavailable as error:
                log.debug("cannot read the dynamic configuration: %s", error)
            except Refused as error:
                log.error("the dynamic configuration was changed, and is wrong: %s", error)

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


def _right(text: str, where: str) -> LoadedDynamic:
    """Raises Refused for what an agent would not run with."""
    loaded = parse_dynamic(text, where)
    if found := [f"{where}: {key}: {why}" for key, why in unsupported(loaded.dcs)]:
        raise Refused("\n".join(found))
    return loaded
