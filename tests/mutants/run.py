"""python -m tests.mutants.run [--only NAME] [--jobs N]: plant each mistake, and see it caught.

Each mutant of the catalogue goes into a copy of src/ and tests/ of its own, and its catcher has to
fail there, saying what the catalogue says that it says; before that, every catcher has to pass on
a copy without a mistake. Exit code 1: a mutant survived, or a catcher is of no use.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.catalogue import MUTANTS, Catcher, Mutant, Schedules

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0
"""Seconds that a catcher may take."""
PATIENCE = 10.0
"""Seconds in which one that was interrupted has to end its servers."""

SHOWN = 300
"""Characters of what a catcher said, where it is not what was expected."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a catcher said. `passed` is no answer where there was an error."""

    said: tuple[str, ...]
    errors: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        return not self.said and not self.errors


def plant(mutant: Mutant, source: Path) -> None:
    """Put the mistake into this copy of src/pgregent. Raises ValueError if it does not apply."""
    path = source / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"mutant {mutant.name}: {mutant.file} has its text {text.count(mutant.old)} times, "
            "expected once: bring the catalogue up to date"
        )
    path.write_text(text.replace(mutant.old, mutant.new))


def judge(catcher: Catcher, mutant: Mutant | None = None) -> Outcome:
    """Run a catcher on a copy with this mistake, or without any."""
    with tempfile.TemporaryDirectory(prefix="pgregent-mutant-") as folder:
        copy = Path(folder)
        for part in ("src", "tests"):
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, copy / part, ignore=skip)
        shutil.copy(ROOT / "pyproject.toml", copy)
        if mutant is not None:
            plant(mutant, copy / "src" / "pgregent")
        return _run(copy, catcher)


def _run(copy: Path, catcher: Catcher) -> Outcome:
    if isinstance(catcher, Schedules):
        what = ["schedules", catcher.theme, str(catcher.last)]
    else:
        what = ["test", catcher]
    path = os.pathsep.join((str(copy / "src"), str(copy)))
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.mutants.catch", *what],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return Outcome((), (f"not done in {LIMIT:.0f} s",), time.monotonic() - began)
    finally:
        _end(process)
    took = time.monotonic() - began
    try:
        found = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        return Outcome((), (f"exit code {process.returncode}: {output[-1000:]}",), took)
    return Outcome(tuple(found["said"]), tuple(found["errors"]), took)


def _end(process: "subprocess.Popen[str]") -> None:
    """Interrupted first, so that a test ends its servers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def survived(mutant: Mutant, outcome: Outcome) -> str:
    """Why the mutant does not count as caught; empty if it was, for the right reason."""
    if outcome.errors:
        return f"not an assertion: {outcome.errors[0][:SHOWN]}"
    if not outcome.said:
        return "nobody noticed"
    if mutant.says not in outcome.said[0]:
        return f"expected {mutant.says!r} to be said, found: {outcome.said[0][:SHOWN]}"
    return ""


def _attempt(mutant: Mutant) -> Outcome:
    return judge(mutant.caught_by, mutant)


def _baseline(catchers: Iterable[Catcher], pool: ThreadPoolExecutor) -> int:
    """How many catchers object to the source as it is."""
    bad = 0
    each = list(dict.fromkeys(catchers))
    for catcher, outcome in zip(each, pool.map(judge, each), strict=True):
        if not outcome.passed:
            bad += 1
            said = [*outcome.errors, *outcome.said][0][:SHOWN]
            print(f"fails without a mutant: {catcher}: {said}")
    print(f"{len(each) - bad} of {len(each)} catchers pass without a mutant", flush=True)
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="part of a mutant's name")
    parser.add_argument("--jobs", type=int, default=1, help="copies at work at once (default 1)")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if any(o in m.name for o in options.only or [""])]
    if not chosen:
        parser.error(f"no mutant has a name with {options.only}")
    # Told to end, it still ends what it started and removes its copies.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with ThreadPoolExecutor(options.jobs) as pool:
        bad = _baseline((m.caught_by for m in chosen), pool)
        width = max(len(m.name) for m in chosen)
        for mutant, outcome in zip(chosen, pool.map(_attempt, chosen), strict=True):
            why = survived(mutant, outcome)
            bad += bool(why)
            what = f"SURVIVED ({why})" if why else f"caught by {mutant.caught_by}"
            print(f"{mutant.name:{width}}  {outcome.seconds:5.1f} s  {what}", flush=True)
    print(f"{len(chosen)} mutants" + (f", {bad} problems" if bad else ", all caught"))
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
