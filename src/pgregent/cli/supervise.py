"""Keep one process running: adopt the one that lives, start another when it dies."""

import asyncio
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pgregent.cli.events import Emit, own_event
from pgregent.config.lockfile import lock_holder

EXIT_BAD_INPUT = 2
_YOUNG_S = 2.0
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.1, 1.0
_LOG_BYTES_MAX = 20 << 20
_TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run. The process itself holds `lock`, which says its pid to whoever comes next."""

    name: str
    argv: tuple[str, ...]
    log: Path
    lock: Path


@dataclass(slots=True)
class Supervised:
    """One supervised process. `run` returns when it ended for good."""

    spec: Spec
    emit: Emit
    pid: int | None = None
    stopping: bool = False
    error: str | None = None
    _pidfd: int = -1
    _log_start: int = 0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Adopt or start, wait for its end, start again: until `stopping`, or exit code 2."""
        failures = 0
        while not self.stopping:
            started_at = time.monotonic()
            try:
                child = self._adopt_or_start()
            except OSError as error:
                self.emit(self._event("exited", f"it could not be started: {error}", code=None))
                code, why = None, ""
            else:
                code, why = await self._end(child)
            if code == EXIT_BAD_INPUT and not self.stopping:
                self.error = self._last_words()
                self.emit(self._event("exited", f"it refused to start: {self.error}", code=code))
                return
            failures = failures + 1 if time.monotonic() - started_at < _YOUNG_S else 0
            delay = min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2 ** (failures - 1)) if failures else 0
            if why:
                self.emit(self._event("exited", self._sentence(why, delay), code=code))
            if not self.stopping and delay:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), delay)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, to this very process and no later one of the same number."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def stop(self, number: signal.Signals) -> None:
        """Ask it to end, and do not start it again."""
        self.stopping = True
        self._wake.set()
        self.send(number)

    def _adopt_or_start(self) -> "subprocess.Popen[bytes] | None":
        holder = lock_holder(self.spec.lock)
        if holder is not None:
            self._pidfd = os.pidfd_open(holder)
            if lock_holder(self.spec.lock) == holder:
                self.pid, self._log_start = holder, _size(self.spec.log)
                self.emit(self._event("started", f"adopted, running as process {holder}"))
                return None
            os.close(self._pidfd)
            self._pidfd = -1
        child = self._start()
        self.pid, self._pidfd = child.pid, os.pidfd_open(child.pid)
        self.emit(self._event("started", f"running as process {child.pid}"))
        return child

    def _start(self) -> "subprocess.Popen[bytes]":
        if _size(self.spec.log) > _LOG_BYTES_MAX:
            self.spec.log.rename(self.spec.log.with_suffix(".log.1"))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        log = os.open(self.spec.log, flags, 0o600)
        try:
            self._log_start = os.fstat(log).st_size
            return subprocess.Popen(
                self.spec.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=_environment(),
            )
        finally:
            os.close(log)

    async def _end(self, child: "subprocess.Popen[bytes] | None") -> tuple[int | None, str]:
        """Wait until the process is gone: its exit code, where it can be known, and a word."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._pidfd, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        code = None if child is None else child.wait()
        match code:
            case None:
                return None, "it ended"
            case 0:
                return code, "it stopped"
            case negative if negative < 0:
                return code, f"it was killed by {signal.Signals(-negative).name}"
            case _:
                return code, f"it exited with code {code}: {self._last_words()}"

    def _sentence(self, why: str, delay: float) -> str:
        if self.stopping:
            return why
        return f"{why}; started again in {delay:g} s" if delay else f"{why}; started again"

    def _last_words(self) -> str:
        """The error in what the process wrote, without the program's name."""
        try:
            with self.spec.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, size - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            text = ""
        marker = "pgregent: error: "
        if marker in text:
            return text.rpartition(marker)[2].strip()
        lines = text.strip().splitlines()
        return lines[-1].strip() if lines else f"no word in {self.spec.log}"

    def _event(self, kind: str, why: str, **fields: object) -> "dict[str, object]":
        event = own_event(kind, why, process=self.spec.name, pid=self.pid, **fields)
        return dict(event)


def _environment() -> dict[str, str]:
    """Without settings: they would be the same for every agent, names and ports included."""
    return {n: v for n, v in os.environ.items() if not n.startswith(("PATRONI_", "PGREGENT_"))}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
