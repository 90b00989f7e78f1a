"""`pgregent history`: the terms, who was appointed, when and why."""

import time
from typing import Any

import click

from pgregent.cli.options import FORMATS, dir_option, format_option, print_rows, print_table

COLUMNS = ("Term", "Member", "At", "Why")


@click.command("history")
@dir_option
@format_option(*FORMATS)
def command(directory: str | None, form: str) -> None:
    """Show every term: its primary, since when, and why it was appointed."""
    from pgregent.cli.cluster_dir import open_cluster, resolve_dir
    from pgregent.cli.statuses import ask_agents
    from pgregent.core.errors import Unavailable

    cluster = open_cluster(resolve_dir(None, directory))
    statuses = ask_agents(cluster)
    if statuses.best is None:
        raise Unavailable("agents", "none answers within a second; is `pgregent up` running?")
    rows = [_row(entry) for entry in statuses.best.get("history") or ()]
    if form == "pretty":
        print_table(f"Cluster: {cluster.scope}", COLUMNS, rows)
    else:
        print_rows(form, COLUMNS, rows)


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    at = entry.get("at")
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(at)) if at else ""
    return {
        "Term": entry.get("term"),
        "Member": entry.get("member"),
        "At": when,
        "Why": entry.get("why"),
    }
