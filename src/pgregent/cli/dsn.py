"""`pgregent dsn`: how applications connect."""

import click

from pgregent.cli.options import dir_option


@click.command("dsn")
@dir_option
@click.option("--read-only", "--ro", is_flag=True, help="The standbys' connection string.")
@click.option("--show-password", is_flag=True, help="Put the password into it, not its file.")
def command(directory: str | None, read_only: bool, show_password: bool) -> None:
    """Print the application's connection string.

    It names a file that holds the password; programs that cannot use one need --show-password.
    """
    from pgregent.cli.cluster_dir import open_cluster, resolve_dir

    cluster = open_cluster(resolve_dir(None, directory))
    click.echo(cluster.dsn(read_only=read_only, show_password=show_password))
