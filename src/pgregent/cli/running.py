"""A cluster in the foreground: its processes supervised, its events shown, until a signal."""

import asyncio
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgregent.cli import processes
from pgregent.cli.cluster_dir import ClusterDir
from pgregent.cli.events import Event, EventFile, Printer, own_event
from pgregent.cli.ready import is_redundant, make_ready
from pgregent.cli.statuses import Status, Statuses, fetch_statuses
from pgregent.cli.supervise import EXIT_BAD_INPUT, Spec, Supervised

_TAIL_POLL_S = 0.05
_REDUNDANCY_TIMEOUT_S = 30.0
_STATUS_POLL_S = 0.2
_STOP_TIMEOUT_S = 60.0
_GATE_STOP_TIMEOUT_S = 5.0


# -P: the working directory is no place to import from.
PGREGENT = (sys.executable, "-P", "-m", "pgregent.cli.main")


def run_cluster(cluster: ClusterDir, printer: Printer, program: tuple[str, ...] = PGREGENT) -> int:
    """Run until SIGINT or SIGTERM; the exit code (0: all stopped).

    `program` is the command whose `agent FILE` and `gate DIR` are the processes to supervise.
    """
    return asyncio.run(Running(cluster, printer, program).run())


def agent_spec(cluster: ClusterDir, name: str, program: tuple[str, ...]) -> Spec:
    """How to run one agent."""
    return Spec(
        name=f"agent {name}",
        argv=(*program, "agent", str(cluster.agent_file(name))),
        log=cluster.log_dir(name) / "agent.log",
        lock=cluster.agent_lock(name),
    )


def gate_spec(cluster: ClusterDir, program: tuple[str, ...]) -> Spec:
    """How to run the entry point."""
    argv = (*program, "gate", str(cluster.path))
    return Spec("gate", argv, cluster.gate_log, cluster.gate_lock)


class Running:
    """All of it, for as long as `up` lives."""

    def __init__(self, cluster: ClusterDir, printer: Printer, program: tuple[str, ...]) -> None:
        self._cluster, self._printer = cluster, printer
        emit = printer.show
        self._agents = {
            n.name: Supervised(agent_spec(cluster, n.name, program), emit) for n in cluster.nodes
        }
        self._gate = Supervised(gate_spec(cluster, program), emit)
        self._files = [EventFile(cluster.events_file(n.name), from_end=True) for n in cluster.nodes]
        self._signals = 0
        self._signalled = asyncio.Event()

    async def run(self) -> int:
        """Start or adopt everything, then wait for a signal, or for all agents to refuse."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        self._say_where()
        agents = [asyncio.create_task(agent.run()) for agent in self._agents.values()]
        gate = asyncio.create_task(self._gate.run())
        tail = asyncio.create_task(self._tail())
        ready = asyncio.create_task(self._become_ready())
        signalled = asyncio.create_task(self._signalled.wait())
        all_ended = asyncio.ensure_future(asyncio.gather(*agents))
        await self._until_over(signalled, all_ended, gate, ready)
        ready.cancel()
        code = await self._stop(all_ended, gate)
        tail.cancel()
        self._show_new_events()
        self._printer.show(own_event("stopped", self._last_sentence(code), code=code))
        return code

    async def _until_over(
        self,
        signalled: "asyncio.Task[Any]",
        all_ended: "asyncio.Future[Any]",
        gate: "asyncio.Task[Any]",
        ready: "asyncio.Task[Any]",
    ) -> None:
        """Return at a signal, when nothing is left to supervise; raise what a task raised."""
        watched: set[asyncio.Future[Any]] = {signalled, all_ended, gate, ready}
        while watched:
            done, watched = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if signalled in done or all_ended in done or gate in done:
                signalled.cancel()
                return

    def _on_signal(self) -> None:
        self._signals += 1
        self._signalled.set()

    def _say_where(self) -> None:
        cluster = self._cluster
        self._progress(
            f"{len(cluster.nodes)} nodes of PostgreSQL {cluster.server.version} in {cluster.path}",
        )
        if cluster.nodes_dir != cluster.path / "nodes":
            why = "PostgreSQL does not run as root, and its user cannot enter that directory"
            self._progress(f"the nodes are in {cluster.nodes_dir}: {why}")

    def _progress(self, why: str, **fields: object) -> None:
        self._printer.show(own_event("progress", why, **fields))

    async def _tail(self) -> None:
        while True:
            self._show_new_events()
            await asyncio.sleep(_TAIL_POLL_S)

    def _show_new_events(self) -> None:
        events: list[Event] = [event for file in self._files for event in file.poll()]
        for event in sorted(events, key=_when):
            self._printer.show(event)

    async def _become_ready(self) -> None:
        said, started = "", time.monotonic()
        while True:
            statuses = await fetch_statuses(self._cluster.agents)
            waiting_for = await make_ready(self._cluster, statuses)
            patient = time.monotonic() - started < _REDUNDANCY_TIMEOUT_S
            if waiting_for is None and patient and not is_redundant(self._cluster, statuses):
                waiting_for = "writes are accepted; waiting for a standby to confirm them"
            if waiting_for is None:
                self._printer.show(ready_event(self._cluster, statuses, started))
                return
            sentence = f"{waiting_for} ({members_in_words(statuses)})"
            if sentence != said:
                self._progress(sentence)
                said = sentence
            await asyncio.sleep(_STATUS_POLL_S)

    async def _stop(self, all_ended: "asyncio.Future[Any]", gate: "asyncio.Task[Any]") -> int:
        """Stop the agents (and they PostgreSQL), then the entry point; bounded in time."""
        for agent in self._agents.values():
            agent.stop(signal.SIGINT)
        self._progress("stopping: the agents stop PostgreSQL")
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        asked, said = self._signals, ""
        while not all_ended.done() and time.monotonic() < deadline and self._signals <= asked:
            await asyncio.wait({all_ended}, timeout=_STATUS_POLL_S)
            left = self._left_in_words()
            sentence = f"stopping: waiting for {', '.join(left)}"
            if left and sentence != said:
                self._progress(sentence)
                said = sentence
        self._gate.stop(signal.SIGTERM)
        done, _ = await asyncio.wait({gate}, timeout=_GATE_STOP_TIMEOUT_S)
        if not done:
            self._gate.send(signal.SIGKILL)
            await asyncio.wait({gate}, timeout=_GATE_STOP_TIMEOUT_S)
        errors = [s.error for s in (*self._agents.values(), self._gate) if s.error]
        if errors:
            return EXIT_BAD_INPUT
        return 1 if self._left_in_words() else 0

    def _left_in_words(self) -> list[str]:
        """What of the cluster still runs."""
        left: list[str] = []
        for name in self._agents:
            living = processes.member_processes(self._cluster, name)
            left += [f"agent {name} (process {living.agent})"] if living.agent else []
            if living.postmaster:
                left.append(f"PostgreSQL of {name} (process {living.postmaster})")
        return left

    def _last_sentence(self, code: int) -> str:
        if code == 0:
            return "everything is stopped"
        supervised = (*self._agents.values(), self._gate)
        errors = [f"{s.spec.name}: {s.error}" for s in supervised if s.error]
        left = self._left_in_words()
        parts = [*errors, *([f"still running: {', '.join(left)}"] if left else [])]
        return "; ".join(parts) or "stopped"


def _when(event: Event) -> float:
    ts = event.get("ts")
    return float(ts) if isinstance(ts, int | float) else 0.0


def members_in_words(statuses: Statuses) -> str:
    """ "n1 running, n2 starting, n3 does not answer"."""
    best: Status = statuses.best or {}
    states: Mapping[str, str] = {m.get("name"): m.get("state") for m in best.get("members") or ()}
    silent = statuses.silent
    words = (
        f"{name} {'does not answer' if name in silent else states.get(name) or 'unknown'}"
        for name in statuses.by_node
    )
    return ", ".join(words)


def ready_event(cluster: ClusterDir, statuses: Statuses, started: float) -> Event:
    """The event that tells programs how to connect. `started`: time.monotonic() of `up`."""
    took = time.monotonic() - started
    return own_event(
        "ready",
        f"writes are accepted; primary {statuses.primary}, ready after {took:.1f} s",
        dsn=cluster.dsn(),
        dsn_ro=cluster.dsn(read_only=True),
        primary=statuses.primary,
        directory=str(cluster.path),
        psql=shutil.which("psql") or str(Path(cluster.server.run_dir) / "psql"),
        members=[
            {
                "name": node.name,
                "data_dir": str(cluster.data_dir(node.name)),
                "port": node.port,
                "api_url": node.api_url,
            }
            for node in cluster.nodes
        ],
    )
