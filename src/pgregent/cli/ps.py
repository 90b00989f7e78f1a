"""`pgregent ps`: the cluster's processes."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pgregent.cli.options import dir_option, format_option, print_json, print_table

if TYPE_CHECKING:
    from pgregent.cli.cluster_dir import ClusterDir


@click.command("ps")
@dir_option
@format_option("json", "pretty", default="json")
@click.option(
    "-q",
    "quiet",
    metavar="primary|NAME",
    help="Print only the pids of that node's PostgreSQL, for `kill -9 $(…)`.",
)
def command(directory: str | None, form: str, quiet: str | None) -> None:
    """Show the processes of the cluster: agents, guards, PostgreSQL, the entry point, `up`.

    null: not running.
    """
    from pgregent.cli import processes
    from pgregent.cli.cluster_dir import open_cluster, resolve_dir

    cluster = open_cluster(resolve_dir(None, directory))
    if quiet is not None:
        click.echo(" ".join(str(pid) for pid in _postgres_pids(cluster, quiet)))
        return
    members = {n.name: asdict(processes.member_processes(cluster, n.name)) for n in cluster.nodes}
    gate, up = processes.gate_pid(cluster), processes.up_pid(cluster)
    if form == "json":
        print_json({"members": members, "gate": gate, "up": up})
        return
    rows = [{"Process": name, **_titled(pids)} for name, pids in members.items()]
    print_table(cluster.scope, ["Process", "Agent", "Guard", "Postmaster"], rows)
    click.echo(f"gate {gate or 'is not running'}, up {up or 'is not running'}")


def _titled(pids: dict[str, int | None]) -> dict[str, int | str]:
    return {key.title(): pid or "-" for key, pid in pids.items()}


def _postgres_pids(cluster: "ClusterDir", which: str) -> list[int]:
    from pgregent.cli import processes
    from pgregent.cli.statuses import fetch_statuses
    from pgregent.core.errors import Unavailable

    if which == "primary":
        statuses = asyncio.run(fetch_statuses(cluster.agents))
        if statuses.primary is None:
            why = (statuses.best or {}).get("why") or "no agent answers; is `pgregent up` running?"
            raise Unavailable("primary", f"there is none now: {why}")
        which = statuses.primary
    postmaster = processes.postmaster_pid(cluster.data_dir(cluster.node(which).name))
    if postmaster is None:
        raise Unavailable("postgres", f"PostgreSQL of {which} is not running")
    return [postmaster, *processes.descendants(postmaster)]
