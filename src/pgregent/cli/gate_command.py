"""`pgregent gate`: the entry point, as `up` runs it."""

from pathlib import Path

import click


@click.command("gate", hidden=True)
@click.argument("directory", metavar="DIR")
def command(directory: str) -> None:
    """Run the entry point of the cluster in DIR, in the foreground."""
    from pgregent.cli.cluster_dir import open_cluster
    from pgregent.cli.gate import run_gate
    from pgregent.config.lockfile import hold_lock

    cluster = open_cluster(Path(directory).resolve())
    lock = hold_lock(cluster.gate_lock)
    try:
        code = run_gate(cluster)
    finally:
        lock.release()
    raise SystemExit(code)
