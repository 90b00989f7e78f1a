"""`pgregent pause`: hands off, for a while."""

import click

from pgregent.cli.paused import set_paused
from pgregent.cli.target import Target, cluster_argument, target_options


@click.command("pause")
@target_options
@cluster_argument
@click.option("--wait", is_flag=True, help="Until all members know.")
def command(target: Target, wait: bool) -> None:
    """Have nobody succeeded, and leave a PostgreSQL that somebody shuts down as it is.

    One that crashes is started again in its place. Replication and the rule for commits go on, and
    so do switchover, restart and reinit. A primary that is cut off from the DCS and from its
    standbys still stops: who has not heard of the pause could elect another.
    """
    set_paused(target, True, wait)
