"""`pgregent topology`: who follows whom."""

import click

from pgregent.cli.list import columns_of, member_rows
from pgregent.cli.options import print_table, show_again, watch_options
from pgregent.cli.target import Target, ask, cluster_argument, target_options


@click.command("topology")
@target_options
@cluster_argument
@watch_options
def command(target: Target, every: float | None) -> None:
    """Show the members as a tree: the primary, and below it the standbys, each with a `+`.

    While nobody is appointed yet there is no tree. Exit code 1 when no agent answers.
    """
    show_again(every, lambda: _show(target))


def _show(target: Target) -> bool:
    statuses = ask(target)
    rows = member_rows(target, statuses)
    if (primary := statuses.primary) is not None:
        rows.sort(key=lambda row: row["Member"] != primary)
        rows = [
            row if row["Member"] == primary else {**row, "Member": f"+ {row['Member']}"}
            for row in rows
        ]
    print_table(f"Cluster: {target.scope}", columns_of(rows)[1:-1], rows)
    if statuses.best is None:
        click.echo(target.silence, err=True)
    return statuses.best is not None
