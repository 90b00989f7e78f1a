"""`pgregent history`: the terms, who was appointed, when and why."""

import time
from typing import Any

import click

from pgregent.cli.options import FORMATS, format_option, print_rows, print_table
from pgregent.cli.target import ask_or_fail, find_target, target_options

COLUMNS = ("Term", "Member", "At", "Why")


@click.command("history")
@target_options
@format_option(*FORMATS)
def command(directory: str | None, config_file: str | None, form: str) -> None:
    """Show every term: its primary, since when, and why it was appointed."""
    target = find_target(directory, config_file)
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
        "Term": entry.get("term"),
        "Member": entry.get("member"),
        "At": when,
        "Why": entry.get("why"),
    }
