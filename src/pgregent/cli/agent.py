"""`pgregent agent`: one member's agent, as `up` or systemd runs it."""

from pathlib import Path

import click


@click.command("agent")
@click.argument("config", metavar="CONFIG.yml")
def command(config: str) -> None:
    """Run the agent of one PostgreSQL server, in the foreground.

    CONFIG.yml is a file in Patroni's format. SIGTERM: this node leaves (a primary hands over
    first) and its PostgreSQL stops. SIGINT: the whole cluster stops. SIGUSR1: only the agent ends,
    PostgreSQL runs on until the next agent takes it over.
    """
    from pgregent.config.load import load_config

    path = Path(config).absolute()
    loaded = load_config(path)
    from pgregent.agent.wiring import run_agent

    raise SystemExit(run_agent(loaded, path))
