"""`pgregent reload`: agents read their own files again."""

import click

from pgregent.cli.member_action import chosen_members
from pgregent.cli.roles import role_option
from pgregent.cli.target import Target, ask_or_fail, target_options
from pgregent.core.errors import Refused, Unavailable

_TIMEOUT_S = 30.0
"""The agent has PostgreSQL check the parameters."""


@click.command("reload")
@target_options
@click.argument("names", nargs=-1, metavar="[CLUSTER] [MEMBER]...")
@role_option("Only members with this role.", default="any")
@click.option("--force", is_flag=True, help="Do not ask.")
def command(target: Target, names: tuple[str, ...], role: str, force: bool) -> None:
    """Have agents read their files again, all of them or each MEMBER, and say what became of it.

    Exit code 1 when a member did not answer or refused its file, and goes on with what it had.
    """
    statuses = ask_or_fail(target)
    members = chosen_members(target, statuses, names, role)
    if not force and not click.confirm(f"{target.scope}: reload {', '.join(members)}?"):
        raise SystemExit(1)
    failed = [name for name in members if not _reload(target, name)]
    if failed:
        raise SystemExit(1)


def _reload(target: Target, name: str) -> bool:
    from pgregent.api.signed import RELOAD
    from pgregent.cli.operate import ask_agent

    try:
        remarks = ask_agent(target, name, RELOAD, {}, _TIMEOUT_S)["remarks"]
    except Unavailable as unavailable:
        click.echo(f"{name}: failed: {unavailable}", err=True)
        return False
    except Refused as refused:
        click.echo(f"failed: {refused}", err=True)
        return False
    click.echo("\n".join((f"{name}: its file was read again", *(f"  {r}" for r in remarks))))
    return True
