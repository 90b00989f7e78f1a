"""A cluster of pgregent as a user has it: one `pgregent up`, its events, its command line."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.cluster.command import COMMAND, Finished, clean_environment, run_cli
from tests.cluster.nodes import Event, Events, Member, NodeProcesses, Nodes
from tests.cluster.plain import make_directory
from tests.cluster.processes import belonging_to, kill_all_of, send


class Cluster(Nodes):
    """`pgregent up` on a directory of its own. Use as a context manager; or start() and close().

    `up` runs in a session of its own; stop() signals that whole foreground group, as Ctrl-C does.
    """

    def __init__(
        self, bin_dir: Path, nodes: int = 3, arguments: Sequence[str] = (), command: Any = COMMAND
    ) -> None:
        super().__init__()
        self.base = make_directory("pgregent-test-")
        self.dir = self.base / "c"
        self.bin_dir = bin_dir
        self._command = [
            *command, "up", str(self.dir), "--nodes", str(nodes), "--entry-port", "0",
            "--port-base", "0", "--bin-dir", str(bin_dir), "--json", *arguments,
        ]  # fmt: skip
        self._up: subprocess.Popen[bytes] | None = None
        self.dsn = self.dsn_ro = ""
        self.ready_after = 0.0

    @property
    def up_pid(self) -> int:
        assert self._up, "`up` was not started"
        return self._up.pid

    def start(self, timeout: float = 90.0) -> Event:
        """Run `up` and wait for `ready`."""
        started = time.monotonic()
        with (self.base / "up.stderr").open("ab") as errors:
            self._up = subprocess.Popen(
                self._command,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        assert self._up.stdout
        self.events = Events(self._up.stdout)
        self._streams.append(self.events)
        try:
            ready = self.events.wait(lambda e: e.name == "ready", timeout, what="ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None
        self.ready_after = ready.at - started
        self._adopt(ready.body)
        return ready

    def _adopt(self, ready: dict[str, Any]) -> None:
        self.dsn, self.dsn_ro = ready["dsn"], ready["dsn_ro"]
        self.members = {
            m["name"]: Member(
                m["name"],
                Path(m["data_dir"]),
                int(m["port"]),
                m["api_url"],
                m.get("host", "127.0.0.1"),
            )
            for m in ready["members"]
        }

    def stop(self, timeout: float = 60.0) -> int:
        """Ctrl-C and wait; return the exit code of `up`."""
        assert self._up, "`up` was not started"
        os.killpg(self._up.pid, signal.SIGINT)
        return self._up.wait(timeout)

    def reap_up(self, timeout: float = 10.0) -> None:
        """Wait for an `up` that was killed."""
        assert self._up, "`up` was not started"
        self._up.wait(timeout)

    def close(self) -> None:
        """Kill whatever is left, prove that nothing is, and remove the directory."""
        send(belonging_to(self.base), signal.SIGCONT)
        kill_all_of(self.base)
        if self._up:
            self._up.wait(10)
        shutil.rmtree(self.base)

    def cli(self, *arguments: str, timeout: float = 30.0) -> Finished:
        """Run a command of the product on this directory (`-d` goes after its name)."""
        name, *rest = arguments
        return run_cli(name, "-d", str(self.dir), *rest, timeout=timeout)

    def ps(self) -> dict[str, Any]:
        """Return what `pgregent ps -f json` says."""
        done = self.cli("ps", "-f", "json")
        assert done.code == 0, f"ps: exit code {done.code}: {done.message}"
        return dict(json.loads(done.out))

    def node(self, name: str) -> NodeProcesses:
        """Return the pids of a member."""
        pids = self.ps()["members"][name]
        return NodeProcesses(pids.get("agent"), pids.get("guard"), pids.get("postmaster"))

    def with_password(self, **changed: Any) -> str:
        """Return the connection string with the password of its passfile: in memory only."""
        parts: dict[str, Any] = {**conninfo_to_dict(self.dsn)}
        passfile = parts.pop("passfile", None)
        if passfile:
            parts["password"] = password_in(Path(str(passfile)), str(parts["user"]))
        return make_conninfo(**{**parts, **changed})

    def logs(self) -> Iterable[Path]:
        """Return the files that tell what happened."""
        nodes = sorted(self.dir.glob("nodes/*/log/*")) + sorted(self.dir.glob("nodes/*/log"))
        return [self.base / "up.stderr", *nodes, *sorted(self.dir.glob("*.log"))]

    def superuser(self, name: str) -> str:
        """Return the superuser's connection string for one member."""
        password = (self.dir / "secrets" / "superuser").read_text().strip()
        changed = {"user": "postgres", "dbname": "postgres", "password": password}
        return make_conninfo(self.direct(name), **changed)


def password_in(passfile: Path, user: str) -> str:
    """Return the password of `user` from a password file, whatever server the line is for."""
    for line in passfile.read_text().splitlines():
        fields = line.replace("\\:", "\0").split(":", 4)
        if len(fields) == 5 and fields[3] in (user, "*"):
            return fields[4].replace("\0", ":").replace("\\\\", "\\")
    raise AssertionError(f"{passfile} holds no line for user {user}")
