"""`pgregent resume`: the end of a pause."""

import click

from pgregent.cli.paused import set_paused
from pgregent.cli.target import Target, cluster_argument, target_options


@click.command("resume")
@target_options
@cluster_argument
@click.option("--wait", is_flag=True, help="Until all members know.")
def command(target: Target, wait: bool) -> None:
    """End the pause: what was stopped starts again, and a dead primary is succeeded."""
    set_paused(target, False, wait)
