"""Which cluster a command is about: a directory on this machine, or the one of an agent's file."""

import asyncio
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgregent.core.errors import Refused, Unavailable

if TYPE_CHECKING:
    import ssl

    from pgregent.cli.cluster_dir import ClusterDir
    from pgregent.cli.statuses import Statuses
    from pgregent.config.schema import AgentConfig

CONFIG_VARIABLE = "PGREGENT_CONFIG_FILE"
Agents = Mapping[str, tuple[str, int]]
"""Each member's REST address by its name."""


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options -d and -c: the command gets the Target that they mean."""
    from pgregent.cli.options import dir_option

    @functools.wraps(command)
    def with_target(directory: str | None, config_file: str | None, **others: Any) -> Any:
        return command(find_target(directory, config_file), **others)

    config = click.option(
        "-c",
        "--config",
        "config_file",
        metavar="FILE.yml",
        help=f"An agent's file of the cluster; from any machine [default: ${CONFIG_VARIABLE}].",
    )
    return dir_option(config(with_target))


def cluster_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """The cluster's name, as patronictl's commands take it; below `target_options`."""

    @functools.wraps(command)
    def checked(target: Target, cluster: str | None, **others: Any) -> Any:
        if cluster not in (None, target.scope):
            raise Refused(f"no cluster {cluster!r} here: {target.origin} is of {target.scope!r}")
        return command(target, **others)

    return click.argument("cluster", required=False)(checked)


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster, as commands reach it. `directory` is None where it is not `up`'s."""

    scope: str
    origin: Path
    """The directory or file that says so."""
    agents: Agents
    secret: Callable[[], str]
    """Reads the replication role's password, which the cluster's key is made of."""
    directory: "ClusterDir | None" = None
    tls: "ssl.SSLContext | None" = None
    """What the agents are asked with; None where they do not use TLS."""

    @property
    def silence(self) -> str:
        """What to say when no agent answers."""
        return f"no agent answers; {self.hint}"

    @property
    def hint(self) -> str:
        """What to ask oneself when no agent answers."""
        return "is `pgregent up` running?" if self.directory else "do they run?"

    def key(self) -> bytes:
        """The key that requests are signed with."""
        from pgregent.adapters.peers.auth import derive_key

        return derive_key(self.secret(), self.scope)


def find_target(directory: str | None, config_file: str | None) -> Target:
    """What -d, -c and the environment say. Raises Refused."""
    from pgregent.cli.cluster_dir import open_cluster, resolve_dir

    if directory and config_file:
        raise Refused(f"two clusters: -d {directory} and -c {config_file}; give one")
    chosen = config_file or (None if directory else os.environ.get(CONFIG_VARIABLE))
    if chosen:
        return _of_file(Path(chosen).absolute())
    cluster = open_cluster(resolve_dir(None, directory))
    return Target(
        cluster.scope,
        cluster.path,
        cluster.agents,
        lambda: cluster.secret("replication"),
        directory=cluster,
    )


def _of_file(path: Path) -> Target:
    from pgregent.api.tls import client_context
    from pgregent.config.load import load

    config = load(path, os.environ).config
    own = config.restapi.address
    agents: dict[str, tuple[str, int]] = {
        name: (address.host, address.port) for name, address in config.pgregent.peers.items()
    }
    agents.update(asyncio.run(_in_dcs(config)))
    agents[config.name] = (own.host, own.port)
    tls = client_context(config.restapi, config.ctl)
    # A DCS that is away, or was emptied, names nobody: those who answer know of others.
    agents = {**asyncio.run(_told_by(agents, tls)), **agents}
    password = config.postgresql.authentication.replication.password
    return Target(config.scope, path, agents, password.get_secret_value, tls=tls)


async def _in_dcs(config: "AgentConfig") -> Agents:
    """The members that have a key in the DCS; none while it does not answer."""
    from pgregent.agent.codec import decode
    from pgregent.agent.connect import keys, open_dcs
    from pgregent.agent.loop import api_address
    from pgregent.core.types import Record

    dcs = await open_dcs(config, f"cli-{os.getpid()}")
    try:
        values = await dcs.read(keys(config).prefix)
    except Unavailable:
        return {}
    finally:
        await dcs.close()
    found: dict[str, tuple[str, int]] = {}
    for key, value in values.items():
        if key != keys(config).register:
            record = decode(Record, value.value, f"the DCS key {key}")
            address = api_address(record.api_url)
            if address is not None:
                found[record.incarnation.name] = address
    return found


async def _told_by(agents: Agents, tls: "ssl.SSLContext | None") -> Agents:
    """The members that these agents know of. Takes at most a second."""
    from pgregent.agent.loop import api_address
    from pgregent.cli.statuses import fetch_statuses

    answers = (await fetch_statuses(agents, tls)).by_node.values()
    members = (m for answer in answers if answer for m in answer.get("members") or ())
    found = {m["name"]: api_address(str(m.get("api_url"))) for m in members}
    return {name: address for name, address in found.items() if address is not None}


def ask(target: Target) -> "Statuses":
    """Ask all agents at once. Takes at most a second."""
    from pgregent.cli.statuses import fetch_statuses

    return asyncio.run(fetch_statuses(target.agents, target.tls))


def ask_or_fail(target: Target) -> "Statuses":
    """As `ask`; raises Unavailable when no agent answers."""
    statuses = ask(target)
    if statuses.best is None:
        names = ", ".join(f"{n} at {host}:{port}" for n, (host, port) in target.agents.items())
        raise Unavailable("agents", f"none answers within a second ({names}); {target.hint}")
    return statuses
