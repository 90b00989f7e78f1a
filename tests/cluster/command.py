"""Commands of the product, run as a user runs them."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

COMMAND = (sys.executable, "-m", "pgregent.cli.main")
_DROPPED = ("PG", "PGREGENT_", "PATRONI_")


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        return self.out + self.err


def clean_environment(**added: str) -> dict[str, str]:
    """Return the environment without what would point a client elsewhere."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_DROPPED)}
    return kept | {"LC_ALL": "C.UTF-8"} | added


def run_cli(*arguments: str, timeout: float = 30.0, cwd: Path | None = None) -> Finished:
    """Run one command of the product to its end; its exit code is the caller's to judge."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=clean_environment(),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    return Finished(done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace"))
