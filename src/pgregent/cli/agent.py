"""`pgregent agent`: one member's agent, as `up` or systemd runs it."""

import os
from pathlib import Path

import click


@click.command("agent")
@click.argument("config", metavar="[CONFIG]", required=False)
def command(config: str | None) -> None:
    """Run the agent of one PostgreSQL server, in the foreground.

    CONFIG is a file in Patroni's format, or a directory whose *.yml are laid over each other in the
    order of their names; settings in the environment (PGREGENT_…, PATRONI_…) win over it. SIGTERM:
    this node leaves (a primary hands over first) and its PostgreSQL stops. SIGINT: the whole
    cluster stops. SIGUSR1: only the agent ends, PostgreSQL runs on until the next agent takes it
    over. SIGHUP: read the configuration again.
    """
    from pgregent.config.environment import forget_secrets
    from pgregent.config.load import load

    path, environ = Path(config).absolute() if config else None, dict(os.environ)
    loaded = load(path, environ)
    forget_secrets(os.environ)
    from pgregent.agent.wiring import run_agent

    raise SystemExit(run_agent(loaded, lambda: load(path, environ)))
