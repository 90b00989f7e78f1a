"""`pgregent list`: the members, in patronictl's columns and ours."""

from typing import TYPE_CHECKING, Any

import click

from pgregent.cli.options import FORMATS, dir_option, format_option, print_rows, print_table

if TYPE_CHECKING:
    from pgregent.cli.cluster_dir import ClusterDir, Node
    from pgregent.cli.statuses import Statuses

COLUMNS = (
    *("Cluster", "Member", "Host", "Role", "State", "TL"),
    *("Receive LSN", "Receive Lag", "Replay LSN", "Replay Lag", "Why"),
)
SILENT = "its agent does not answer"


@click.command("list")
@dir_option
@format_option(*FORMATS)
def command(directory: str | None, form: str) -> None:
    """List the members: role, state, timeline, lag in MB, and why each is as it is.

    json, yaml and tsv have patronictl's keys, in its units. Exit code 1 when no agent answers.
    """
    from pgregent.cli.cluster_dir import open_cluster, resolve_dir
    from pgregent.cli.statuses import ask_agents

    cluster = open_cluster(resolve_dir(None, directory))
    statuses = ask_agents(cluster)
    rows = member_rows(cluster, statuses)
    if form == "pretty":
        print_table(f"Cluster: {cluster.scope}", COLUMNS[1:-1], rows)
        for row in rows:
            click.echo(f"{row['Member']}: {row['Why']}")
        best = statuses.best or {}
        for sentence in (best.get("why"), best.get("succession")):
            click.echo(sentence or "", nl=bool(sentence))
    else:
        print_rows(form, COLUMNS, rows)
    if statuses.best is None:
        click.echo("no agent answers; is `pgregent up` running?", err=True)
        raise SystemExit(1)


def member_rows(cluster: "ClusterDir", statuses: "Statuses") -> list[dict[str, Any]]:
    """One row per node of the cluster, whether its agent answers or not."""
    known = {m.get("name"): m for m in (statuses.best or {}).get("members") or ()}
    return [_row(cluster, n, known.get(n.name) or {}, statuses.silent) for n in cluster.nodes]


def _row(
    cluster: "ClusterDir", node: "Node", member: dict[str, Any], silent: list[str]
) -> dict[str, Any]:
    is_silent = node.name in silent
    why = str(member.get("why") or "")
    if is_silent:
        why = f"{SILENT}; {why}" if why else SILENT
    return {
        "Cluster": cluster.scope,
        "Member": node.name,
        "Host": f"{member.get('host') or '127.0.0.1'}:{member.get('port') or node.port}",
        "Role": str(member.get("role") or "").replace("_", " ").title(),
        "State": member.get("state") or "unknown",
        "TL": member.get("timeline"),
        "Receive LSN": member.get("receive_lsn"),
        "Receive Lag": _megabytes(member.get("receive_lag")),
        "Replay LSN": member.get("replay_lsn"),
        "Replay Lag": _megabytes(member.get("replay_lag")),
        "Why": why,
    }


def _megabytes(lag: object) -> int | None:
    return round(lag / 1024 / 1024) if isinstance(lag, int) else None
