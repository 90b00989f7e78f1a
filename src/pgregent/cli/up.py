"""`pgregent up`: check, make or resume, and keep running."""

from pathlib import Path
from typing import Any

import click

from pgregent.cli.options import dir_option


@click.command("up")
@click.argument("directory_argument", metavar="[DIR]", required=False)
@dir_option
@click.option("--nodes", type=int, metavar="N", help="How many nodes, 1 to 7 [default: 3].")
@click.option(
    "--bin-dir",
    metavar="PATH",
    help="PostgreSQL's bin folder [default: the installed wheel's, else the system's newest].",
)
@click.option(
    "--entry-port",
    type=int,
    metavar="P",
    help="Where applications connect: read-write at P, read-only at P+1 [default: 5435]. 0: free.",
)
@click.option(
    "--port-base",
    type=int,
    metavar="P",
    help="The nodes' PostgreSQL listen from port P [default: 5441]. 0: free ports, REST too.",
)
@click.option(
    "--rest-port-base",
    type=int,
    metavar="P",
    help="The agents' REST listens from port P [default: 8008]. 0: free ports.",
)
@click.option("--scope", metavar="NAME", help="The cluster's name [default: pgregent].")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON, one on a line.")
def command(
    directory_argument: str | None, directory: str | None, as_json: bool, **wished: Any
) -> None:
    """Run a PostgreSQL cluster of agents on this machine, in the foreground.

    Makes the cluster in DIR (default $PGREGENT_DIR, else ./pgregent-data), or resumes the one that
    is there with its data: then the options may be left out. Ctrl-C stops everything. Processes
    that die are started again; if `up` itself dies, the cluster runs on, and the next `up` adopts
    it.
    """
    from pgregent.cli.cluster_dir import resolve_dir
    from pgregent.cli.events import JsonPrinter, PrettyPrinter
    from pgregent.cli.plan import Wishes
    from pgregent.cli.prepare import prepare
    from pgregent.cli.running import run_cluster

    if wished["bin_dir"] is not None:
        wished["bin_dir"] = Path(wished["bin_dir"]).expanduser().absolute()
    cluster, lock = prepare(resolve_dir(directory_argument, directory), Wishes(**wished))
    printer = JsonPrinter() if as_json else PrettyPrinter()
    try:
        code = run_cluster(cluster, printer)
    finally:
        printer.close()
        lock.release()
    raise SystemExit(code)
