"""Night after night towards so many schedules of one core, with the sum in a file."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pgregent.core.errors import Refused
from tests.sim.pool import play_on_all_cores
from tests.sim.tally import Tally, core_hash

TALLY = Path(__file__).parents[2] / "docs/proof/simulation.json"
SAVE_EVERY = 10.0


class Proof:
    """The tally of one core: goes on where it ended; another core starts anew, with new seeds."""

    def __init__(self, path: Path = TALLY, core: str = "") -> None:
        self.path = path
        self.core = core or core_hash()
        self.tally = Tally()
        self.first = self.next = 1
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            found: dict[str, Any] = json.loads(self.path.read_text())
            self.first = self.next = found["seeds"][1] + 1
            if found["core"] == self.core:
                self.first = found["seeds"][0]
                self.tally = Tally.from_json(found)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise Refused(
                f"{self.path}: not a tally of schedules ({error!r}): move it away, or take it "
                "back from the repository"
            ) from error

    def save(self) -> None:
        """Replace the file, whole."""
        found = {"core": self.core, "seeds": [self.first, self.next - 1], **self.tally.as_json()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps(found, indent=2) + "\n")
        os.replace(beside, self.path)

    def play(
        self, schedules: int, jobs: int, told: Callable[["Proof"], None], limit: float | None
    ) -> None:
        """Play until there are so many, or so many seconds have passed; Ctrl-C ends it earlier.
        What was played is saved in any case."""
        lacking = schedules - self.tally.schedules
        if lacking <= 0:
            return
        parts = play_on_all_cores(self.next, self.next + lacking - 1, jobs=jobs, seconds=limit)
        try:
            self._add(parts, told)
        finally:
            self.save()

    def _add(self, parts: Iterator[tuple[range, Tally]], told: Callable[["Proof"], None]) -> None:
        saved_at = time.monotonic()
        for seeds, tally in parts:
            self.tally.add(tally)
            self.next = seeds.stop
            told(self)
            if time.monotonic() - saved_at > SAVE_EVERY:
                self.save()
                saved_at = time.monotonic()
