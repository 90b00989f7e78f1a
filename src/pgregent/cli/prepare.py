"""From wishes to a directory that is locked and complete, or one error and nothing changed."""

import os
from contextlib import suppress
from pathlib import Path

from pgregent.cli import plan
from pgregent.cli.cluster_dir import ClusterDir, cluster_file, up_lock
from pgregent.cli.create import complete_cluster, make_cluster
from pgregent.config.lockfile import Lock, hold_lock, lock_holder
from pgregent.core.errors import Refused


def prepare(path: Path, wishes: plan.Wishes) -> tuple[ClusterDir, Lock]:
    """Check everything, then lock and fill the directory. Raises Refused, with nothing changed."""
    _check_only_up(path)
    plan.check_nodes(wishes)
    cluster = plan.find_cluster(path)
    if cluster is not None:
        plan.check_resume(cluster, wishes)
        cluster = plan.find_server_again(cluster)
        plan.check_ports(cluster)
        lock = _lock(path)
        return complete_cluster(cluster), lock
    cluster = plan.plan_cluster(path, wishes, plan.choose_server(wishes.bin_dir))
    plan.check_ports(cluster)
    made = not path.exists()
    path.mkdir(mode=0o711, parents=True, exist_ok=True)
    lock = _lock(path)
    try:
        if plan.find_cluster(path) is not None:
            raise Refused(f"another `pgregent up` has just made {path}: try again")
        return make_cluster(cluster), lock
    except (Refused, OSError):
        if not cluster_file(path).exists():
            _forget(path, made, lock)
        raise


def _check_only_up(path: Path) -> None:
    holder = lock_holder(up_lock(path))
    if holder is not None:
        raise Refused(
            f"`pgregent up` runs for {path} already (process {holder}): stop that one first"
            " (Ctrl-C there), or name another directory"
        )


def _lock(path: Path) -> Lock:
    try:
        return hold_lock(up_lock(path))
    except Refused:
        _check_only_up(path)
        raise


def _forget(path: Path, made: bool, lock: Lock) -> None:
    with suppress(OSError):
        os.unlink(up_lock(path))
    lock.release()
    if made:
        with suppress(OSError):
            path.rmdir()
