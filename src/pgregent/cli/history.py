"""`pgregent history`: the terms, who was appointed, when and why."""

import time
from typing import Any

import click

from pgregent.cli.options import FORMATS, format_option, print_rows, print_table
from pgregent.cli.target import Target, ask_or_fail, cluster_argument, target_options

COLUMNS = ("TL", "LSN", "Reason", "Timestamp", "New Leader", "Term")


@click.command("history")
@target_options
@cluster_argument
@format_option(*FORMATS)
def command(target: Target, form: str) -> None:
    """Show every term: its primary, since when, and why it was appointed.

    TL and LSN (in bytes) say which timeline ended, and where; 0 in the line of the first primary.
    """
    statuses = ask_or_fail(target)
    rows = [_row(entry) for entry in (statuses.best or {}).get("history") or ()]
    if form == "pretty":
        print_table(f"Cluster: {target.scope}", COLUMNS, rows)
    else:
        print_rows(form, COLUMNS, rows)


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    at = entry.get("at")
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(at)) if at else ""
    return {
        "TL": entry.get("ended_timeline"),
        "LSN": entry.get("ended_lsn"),
        "Reason": entry.get("why"),
        "Timestamp": when,
        "New Leader": entry.get("member"),
        "Term": entry.get("term"),
    }
