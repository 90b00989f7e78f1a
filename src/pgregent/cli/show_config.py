"""`pgregent show-config`: the dynamic configuration as it is stored."""

from dataclasses import dataclass
from typing import Any

import click

from pgregent.cli.options import as_yaml
from pgregent.cli.target import Target, ask_or_fail, cluster_argument, target_options


@click.command("show-config")
@target_options
@cluster_argument
def command(target: Target) -> None:
    """Print the dynamic configuration as YAML: what all members have in common."""
    click.echo(as_yaml(read_stored(target).config), nl=False)


@dataclass(frozen=True, slots=True)
class StoredConfig:
    """The configuration, its version in the DCS, and whose agent says so."""

    config: dict[str, Any]
    version: int
    agent: str


def read_stored(target: Target) -> StoredConfig:
    """Ask an agent that reaches the DCS. Raises Refused, Unavailable."""
    from pgregent.api.signed import SHOW_CONFIG
    from pgregent.cli.operate import ask_agent

    statuses = ask_or_fail(target)
    reaching = (n for n, s in statuses.by_node.items() if s is not None and s["dcs"]["ok"])
    agent = next(reaching, None) or str(statuses.best_name)
    answer = ask_agent(target, agent, SHOW_CONFIG, {})
    return StoredConfig(answer["config"], answer["version"], agent)
