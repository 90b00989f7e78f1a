"""The processes of a cluster, as /proc shows them."""

from dataclasses import dataclass
from pathlib import Path

from pgregent.cli.cluster_dir import ClusterDir, up_lock
from pgregent.config.lockfile import lock_holder


@dataclass(frozen=True, slots=True)
class MemberProcesses:
    """The pids of one member; None is not running."""

    agent: int | None
    guard: int | None
    postmaster: int | None


def member_processes(cluster: ClusterDir, name: str) -> MemberProcesses:
    """Who runs for that member now."""
    return MemberProcesses(
        agent=lock_holder(cluster.agent_lock(name)),
        guard=guard_pid(cluster, name),
        postmaster=postmaster_pid(cluster.data_dir(name)),
    )


def up_pid(cluster: ClusterDir) -> int | None:
    """The `up` that supervises this cluster."""
    return lock_holder(up_lock(cluster.path))


def gate_pid(cluster: ClusterDir) -> int | None:
    """The entry point."""
    return lock_holder(cluster.gate_lock)


def guard_pid(cluster: ClusterDir, name: str) -> int | None:
    """The guard, told by its command line: trying its lock could keep one from starting."""
    pid = _first_number(cluster.state_dir(name) / "guard.lock")
    if pid is None or not is_alive(pid):
        return None
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    is_ours = str(cluster.data_dir(name)) in words or str(cluster.state_dir(name)) in words
    return pid if is_ours and any("guard" in Path(word).name for word in words) else None


def postmaster_pid(data_dir: Path) -> int | None:
    """The postmaster that postmaster.pid names, if it lives and works in that directory."""
    pid = _first_number(data_dir / "postmaster.pid")
    if pid is None or not is_alive(pid):
        return None
    try:
        return pid if Path(f"/proc/{pid}/cwd").resolve() == data_dir.resolve() else None
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    parent_and_state = _stat(pid)
    return parent_and_state is not None and parent_and_state[1] not in "ZX"


def descendants(pid: int) -> list[int]:
    """All processes below that one, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := _stat(int(entry.name))) is not None:
            children.setdefault(found[0], []).append(int(entry.name))
    below: list[int] = []
    queue = [pid]
    while queue:
        below += (added := children.pop(queue.pop(0), []))
        queue += added
    return below


def _stat(pid: int) -> tuple[int, str] | None:
    """The parent and the state of a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[1]), fields[0]


def _first_number(path: Path) -> int | None:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    number = lines[0].strip() if lines else ""
    return int(number) if number.isdigit() and int(number) > 0 else None
