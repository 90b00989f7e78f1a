"""bootstrap.post_bootstrap: the operator's command that completes a new cluster, run once.

A mark in the new data directory says that it is due, another that it was begun. Before it succeeds
there is no cluster, so a directory in which it failed is never started again.
"""

from pathlib import Path

from pgregent.adapters.postgres import render, tools
from pgregent.adapters.postgres.layout import ServerConfig
from pgregent.core.errors import Refused

_DUE, _BEGUN = "post_bootstrap.due", "post_bootstrap.begun"


def set_due(data_dir: Path) -> None:
    """It is to be run for the cluster in this new directory."""
    render.write_file(data_dir / _DUE, "")


def refuse_begun(data_dir: Path) -> None:
    """Raise Refused if it was begun here and has not succeeded."""
    if (data_dir / _DUE).exists() and (data_dir / _BEGUN).exists():
        raise Refused(
            "bootstrap.post_bootstrap failed, or was interrupted: the cluster is not created; "
            f"correct the command and move {data_dir} away, and a new one is made"
        )


async def run_if_due(config: ServerConfig) -> None:
    """Run it against the server that answers now; it gets a connection string as its last
    argument, and the password through PGPASSFILE. Takes an hour at most. Raises Refused,
    Unavailable."""
    due, begun = config.data_dir / _DUE, config.data_dir / _BEGUN
    if not due.exists():
        return
    if config.post_bootstrap:
        render.write_file(begun, "")
        await _run(config)
    render.remove_file(due)
    render.remove_file(begun)


async def _run(config: ServerConfig) -> None:
    host, port, superuser = config.local.host, str(config.local.port), config.superuser
    entry = render.PassEntry(host, port, superuser.user, superuser.password)
    passfile = config.state_dir / "post_bootstrap.pgpass"
    target = render.conninfo(
        {
            "host": host,
            "port": port,
            "user": superuser.user,
            "dbname": "postgres",
            **superuser.options,
        }
    )
    render.write_file(passfile, render.pass_file([entry]), config.owner)
    try:
        await tools.run_command(
            (*config.post_bootstrap, target),
            passfile,
            config.owner,
            last_words=config.state_dir / "post_bootstrap.log",
        )
    except Refused as error:
        raise Refused(
            f"bootstrap.post_bootstrap: {error}: the cluster is not created; correct the command "
            f"and move {config.data_dir} away, and a new one is made"
        ) from error
    finally:
        render.remove_file(passfile)
