"""Processes that are started again when they end, as Compose and systemd do."""

import ctypes
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.chaos.net import Host
from tests.cluster.command import clean_environment

RESTART_S = 0.5
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_us() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass(slots=True)
class Service:
    """One process on one host; `ended_at` is when it was first seen to have ended."""

    host: Host
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    process: "subprocess.Popen[bytes] | None" = None
    ended_at: float | None = None
    starts: int = 0

    @property
    def pid(self) -> int | None:
        """Its process, None while there is none."""
        running = self.process is not None and self.process.poll() is None
        return self.process.pid if running and self.process else None

    def start(self) -> None:
        """Start it, in the main thread: it dies with that."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.host.prefix, *self.command],
                cwd=self.log.parent,
                env=clean_environment(**self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_us,  # noqa: PLW1509 (one system call)
            )
        self.ended_at = None
        self.starts += 1


class Services:
    """All of a cluster's. Those whose host is in `down` stay down."""

    def __init__(self) -> None:
        self.by_name: dict[str, Service] = {}
        self.down: set[str] = set()

    def add(self, name: str, service: Service) -> None:
        """Start a service, and keep it running."""
        self.by_name[name] = service
        service.start()

    def look(self) -> None:
        """Start again what has ended a while ago; call it every so often."""
        for service in self.by_name.values():
            if service.pid is not None or service.host.name in self.down:
                continue
            now = time.monotonic()
            if service.ended_at is None:
                service.ended_at = now
            elif now - service.ended_at >= RESTART_S:
                service.start()

    def reap(self) -> None:
        """Collect those that were killed for good."""
        for service in self.by_name.values():
            if service.process is not None:
                service.process.wait(10)
