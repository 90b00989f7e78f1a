"""`pgregent agent-restart`: another agent process, without touching PostgreSQL."""

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import click

from pgregent.cli.options import dir_option

if TYPE_CHECKING:
    from pgregent.cli.cluster_dir import ClusterDir

_TIMEOUT_S = 30.0
_POLL_S = 0.1


@click.command("agent-restart")
@click.argument("name")
@dir_option
def command(name: str, directory: str | None) -> None:
    """Restart the agent of node NAME, as after an upgrade. PostgreSQL and its sessions go on."""
    from pgregent.cli import processes
    from pgregent.cli.cluster_dir import open_cluster, resolve_dir
    from pgregent.config.lockfile import lock_holder
    from pgregent.core.errors import Refused

    cluster = open_cluster(resolve_dir(None, directory))
    node = cluster.node(name)
    if processes.up_pid(cluster) is None:
        raise Refused(
            f"no `pgregent up` runs for {cluster.path}: nobody would start the agent again"
        )
    before = lock_holder(cluster.agent_lock(node.name))
    if before is None:
        raise Refused(f"the agent of {name} is not running")
    os.kill(before, signal.SIGUSR1)
    after = _wait_for_another(cluster, name, before)
    click.echo(f"agent {name}: process {before} is replaced by process {after}")


def _answers(cluster: "ClusterDir", name: str) -> bool:
    from pgregent.cli.statuses import fetch_statuses

    return asyncio.run(fetch_statuses({name: cluster.agents[name]})).by_node[name] is not None


def _wait_for_another(cluster: "ClusterDir", name: str, before: int) -> int:
    from pgregent.config.lockfile import lock_holder
    from pgregent.core.errors import Unavailable

    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        holder = lock_holder(cluster.agent_lock(name))
        if holder not in (None, before) and _answers(cluster, name):
            return holder
        time.sleep(_POLL_S)
    raise Unavailable(
        f"agent {name}",
        f"no other agent answered within {_TIMEOUT_S:g} s; see"
        f" {cluster.log_dir(name) / 'agent.log'}",
    )
