"""The container engine: whether one runs, the images, and projects of docker-compose."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "compose"
SEED = ROOT / "tests" / "seed"
BASE = "debian:bookworm-slim"
# What stands in for an image that cannot be had: (Dockerfile, its folder).
STAND_INS = {
    "postgres:15": ("postgres.Dockerfile", Path(__file__).parent / "standin"),
    "haproxy:3.0": ("haproxy.Dockerfile", Path(__file__).parent / "standin"),
    "confluentinc/cp-zookeeper:7.7.1": ("Dockerfile.zookeeper", DEPLOY),
}
NODES = ("pg-master", "pg-slave")
_BUILD_S = 600
_CALL_S = 120


def why_not() -> str:
    """Why no container can be run here; empty if it can."""
    for program in ("docker", "docker-compose"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    asked = subprocess.run(
        ["docker", "info"], check=False, capture_output=True, text=True, timeout=30
    )
    return "" if asked.returncode == 0 else f"no container engine runs: {asked.stderr.strip()}"


def run(*command: str, timeout: float = _CALL_S, cwd: Path | None = None) -> str:
    """The output of a command. AssertionError with all it said when it fails."""
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def has_image(name: str) -> bool:
    found = subprocess.run(
        ["docker", "image", "inspect", name], check=False, capture_output=True, timeout=30
    )
    return found.returncode == 0


def make_images() -> None:
    """Have every image of docker-compose.yml here, real or a stand-in under its name."""
    for name, (file, folder) in STAND_INS.items():
        if not has_image(name):
            context = (str(folder / file), "--build-arg", f"BASE={BASE}", str(folder))
            run("docker", "build", "-t", name, "-f", *context, timeout=_BUILD_S)


class Project:
    """One docker-compose project; taken down with its volumes at the end."""

    def __init__(self, name: str, directory: Path, *files: Path) -> None:
        self.directory = directory
        named = [part for file in files for part in ("-f", str(file))]
        self._compose = ["docker-compose", "-p", name, *named]

    def __enter__(self) -> "Project":
        self.close()
        taken = run("docker", "ps", "-a", "--format", "{{.Names}}").split()
        ours = {*NODES, "pg-third", "zoo", "postgres_entrypoint", "haproxy-watch"}
        assert not ours & set(taken), f"containers of somebody else: {sorted(ours & set(taken))}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            print(self.logs())
        self.close()

    def __call__(self, *words: str, timeout: float = _CALL_S) -> str:
        """docker-compose WORDS."""
        return run(*self._compose, *words, timeout=timeout, cwd=self.directory)

    def up(self) -> None:
        """As the report does it."""
        self("up", "-d", "--build", timeout=_BUILD_S)

    def close(self) -> None:
        self("down", "-v", "--remove-orphans")

    def logs(self, *services: str) -> str:
        return self("logs", "--no-color", "--tail", "60", *services)


def curl_status(node: str, path: str) -> int:
    """The HTTP status of the agent's answer, asked inside of its container; 0: none."""
    url = f"http://{node}:8008{path}"
    ask = ["curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}", url]
    asked = subprocess.run(
        ["docker", "exec", node, *ask], check=False, capture_output=True, text=True, timeout=30
    )
    return int(asked.stdout or 0) if asked.returncode == 0 else 0


def primary_of(nodes: Sequence[str] = NODES) -> str:
    """The container whose agent says that it is the primary; empty if none does."""
    return next((n for n in nodes if curl_status(n, "/primary") == 200), "")


def members(node: str, config: str) -> dict[str, dict[str, object]]:
    """`pgregent list`, by member, asked in this container."""
    listed = run("docker", "exec", node, "pgregent", "list", "-c", config, "-f", "json")
    return {row["Member"]: row for row in json.loads(listed)}


def until(what: str, done: Callable[[], object], timeout: float = 60.0) -> None:
    """Wait until it is so; AssertionError when it is not in time."""
    end = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < end, f"not within {timeout:g} s: {what}"
        time.sleep(0.1)


def reaches_dcs(node: str) -> bool:
    """Whether its agent says that ZooKeeper answers."""
    url = f"http://{node}:8008/pgregent/status"
    asked = subprocess.run(
        ["docker", "exec", node, "curl", "-s", "-m", "3", url],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return asked.returncode == 0 and bool(json.loads(asked.stdout)["dcs"]["ok"])


def healthy(nodes: Sequence[str] = NODES) -> bool:
    """One primary, commits wait for the others, and all reach ZooKeeper."""
    primary = primary_of(nodes)
    others = [n for n in nodes if n != primary]
    synchronous = all(curl_status(n, "/sync?replication_state=streaming") == 200 for n in others)
    return bool(primary) and synchronous and all(reaches_dcs(n) for n in nodes)
