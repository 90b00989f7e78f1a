"""`pgregent edit-config`: another dynamic configuration, for all members."""

from collections.abc import Mapping
from typing import Any

import click

from pgregent.cli.edited_config import difference, parse_mapping, read_mapping, with_settings
from pgregent.cli.options import as_yaml
from pgregent.cli.show_config import StoredConfig, read_stored
from pgregent.cli.target import Target, cluster_argument, target_options
from pgregent.core.errors import Refused

_TIMEOUT_S = 30.0
"""The agent has PostgreSQL check the parameters."""


@click.command("edit-config")
@target_options
@cluster_argument
@click.option(
    "-s", "--set", "settings", multiple=True, metavar="KEY=VALUE", help="As in ttl=20; repeatable."
)
@click.option(
    "-p",
    "--pg",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="The same for a parameter of PostgreSQL.",
)
@click.option("--apply", "apply_file", metavar="FILE|-", help="Lay this over it.")
@click.option("--replace", "replace_file", metavar="FILE|-", help="Put this in its place.")
@click.option("-q", "--quiet", is_flag=True, help="Do not show what changes.")
@click.option("--force", is_flag=True, help="Do not ask.")
def command(
    target: Target,
    *,
    settings: tuple[str, ...],
    parameters: tuple[str, ...],
    apply_file: str | None,
    replace_file: str | None,
    quiet: bool,
    force: bool,
) -> None:
    """Change the dynamic configuration, in $EDITOR or as the options say, in this order: --replace,
    --apply, --set, --pg. `null` as a value removes a key.

    An agent checks it first. What somebody else has changed meanwhile is not overwritten: the
    command is refused then.
    """
    from pgregent.agent.dynamic import merged

    stored = read_stored(target)
    pairs = (*settings, *(f"postgresql.parameters.{pair.lstrip()}" for pair in parameters))
    after = stored.config if replace_file is None else merged({}, read_mapping(replace_file))
    if apply_file is not None:
        after = merged(after, read_mapping(apply_file))
    after = with_settings(after, pairs)
    if not pairs and apply_file is None and replace_file is None:
        after = merged({}, _in_editor(after))
    if after == stored.config:
        click.echo("Not changed")
        return
    if not quiet:
        click.echo(difference(stored.config, after), nl=False)
    if not force:
        if "-" in (apply_file, replace_file):
            raise Refused("nothing was changed: no answer can be read from stdin, too; add --force")
        if not click.confirm("Apply these changes?"):
            raise SystemExit(1)
    _store(target, stored, after)
    click.echo("Configuration changed")


def _in_editor(config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        text = click.edit(as_yaml(config), extension=".yaml", require_save=False)
    except click.ClickException as error:
        raise Refused(f"$VISUAL, $EDITOR: {error.message}; nothing was changed") from None
    return parse_mapping(text or "", "the edited text")


def _store(target: Target, stored: StoredConfig, after: Mapping[str, Any]) -> None:
    from pgregent.api.signed import EDIT_CONFIG
    from pgregent.cli.operate import ask_agent

    asked = {"config": after, "version": stored.version}
    ask_agent(target, stored.agent, EDIT_CONFIG, asked, _TIMEOUT_S)
