"""`pgregent haproxy`: HAProxy's configuration, and the watch beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pgregent.adapters.entry.haproxy import Node
    from pgregent.config.schema import AgentConfig

_PORT = click.IntRange(1, 65535)
_SOCKET = "/run/haproxy/admin.sock"
_files = click.argument("files", metavar="FILE.yml...", nargs=-1, required=True)
_socket: Callable[[Any], Any] = click.option(
    "--socket",
    metavar="PATH",
    default=_SOCKET,
    show_default=True,
    help="HAProxy's runtime API: an absolute path, or host:port.",
)


@click.group("haproxy")
def command() -> None:
    """HAProxy as the entry point.

    FILE.yml... are the YAML files of all agents of the cluster.
    """


@command.command("config")
@_files
@click.option("--port", type=_PORT, default=5432, show_default=True, help="To the primary.")
@click.option("--ro-port", type=_PORT, default=5433, show_default=True, help="To the standbys.")
@click.option(
    "--stats-port",
    type=_PORT,
    multiple=True,
    default=(7000,),
    show_default=True,
    help="The statistics page; may be given several times.",
)
@click.option(
    "--check-port",
    type=_PORT,
    default=7001,
    show_default=True,
    help="On 127.0.0.1, where HAProxy asks itself.",
)
@_socket
@click.option(
    "--hold",
    metavar="SECONDS",
    type=float,
    help="How long a new connection waits while there is no server "
    "[default: pgregent.hold_timeout of the files].",
)
@click.option("-o", "--output", metavar="OUT", help="Write to this file, not to stdout.")
def config_command(
    *,
    files: tuple[str, ...],
    port: int,
    ro_port: int,
    stats_port: tuple[int, ...],
    check_port: int,
    socket: str,
    hold: float | None,
    output: str | None,
) -> None:
    """Write haproxy.cfg."""
    from pgregent.adapters.entry.haproxy import Entry, render
    from pgregent.cli.cluster_dir import write_file
    from pgregent.cli.haproxy_tls import agents_tls
    from pgregent.core.errors import Refused

    configs = _load(files)
    if hold is None:
        hold = _hold_timeout(files, configs)
    entry = Entry(port, ro_port, stats_port, check_port, socket, hold)
    text = render(_nodes(configs), entry, agents_tls(files, configs))
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        write_file(Path(output).absolute(), text, 0o644)
    except OSError as error:
        raise Refused(f"--output: cannot write {output}: {error.strerror}") from error


@command.command("watch")
@_files
@_socket
def watch_command(files: tuple[str, ...], socket: str) -> None:
    """Steer a running HAProxy, in the foreground.

    Cuts the old primary's sessions at the appointment and lets clients in as soon as the new one
    serves. When the watch ends, HAProxy goes on by its own checks.
    """
    from pgregent.api.tls import client_context
    from pgregent.cli.haproxy_watch import run_watch

    configs = _load(files)
    secret = configs[0].postgresql.authentication.replication.password.get_secret_value()
    tls = client_context(configs[0].restapi, configs[0].ctl)
    raise SystemExit(run_watch(_nodes(configs), secret, configs[0].scope, socket, tls))


def _load(files: tuple[str, ...]) -> list[AgentConfig]:
    """The agents' configurations. Raises Refused where they are not of one cluster."""
    from pgregent.config.load import load_config
    from pgregent.core.errors import Refused

    configs = [load_config(Path(file)) for file in files]
    first, named = configs[0], dict[str, str]()
    for file, config in zip(files, configs, strict=True):
        if config.scope != first.scope:
            raise Refused(
                f"{file}: scope: found {config.scope!r}, expected {first.scope!r} as in "
                f"{files[0]}: give the files of one cluster"
            )
        if config.name in named:
            raise Refused(
                f"{file}: name: found {config.name!r}, which {named[config.name]} has too: "
                "expected a name of its own for each member"
            )
        named[config.name] = file
        if (config.restapi.certfile is None) != (first.restapi.certfile is None):
            raise Refused(
                f"{file}: restapi.certfile: found {config.restapi.certfile or 'none'}, but "
                f"{first.restapi.certfile or 'none'} in {files[0]}: expected TLS on the ports of "
                "all agents, or of none"
            )
        ours, theirs = (c.postgresql.authentication.replication for c in (first, config))
        if ours.password != theirs.password:
            raise Refused(
                f"{file}: postgresql.authentication.replication.password: differs from that in "
                f"{files[0]}, expected the same for all members"
            )
    return configs


def _hold_timeout(files: tuple[str, ...], configs: list[AgentConfig]) -> float:
    from pgregent.core.errors import Refused

    expected = configs[0].pgregent.hold_timeout
    for file, config in zip(files, configs, strict=True):
        if config.pgregent.hold_timeout != expected:
            raise Refused(
                f"{file}: pgregent.hold_timeout: found {config.pgregent.hold_timeout:g}, expected "
                f"{expected:g} as in {files[0]}: give the same in all files, or --hold"
            )
    return expected


def _nodes(configs: list[AgentConfig]) -> list[Node]:
    from pgregent.adapters.entry.haproxy import Node

    nodes: list[Node] = []
    for config in configs:
        server, api = config.postgresql.address, config.restapi.address
        nodes.append(Node(config.name, server.host, server.port, api.host, api.port))
    return nodes
