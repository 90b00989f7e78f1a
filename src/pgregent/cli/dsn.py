"""`pgregent dsn`: how applications connect."""

from typing import TYPE_CHECKING

import click

from pgregent.cli.roles import has_role, role_option
from pgregent.cli.target import Target, ask_or_fail, cluster_argument, target_options
from pgregent.core.errors import Refused

if TYPE_CHECKING:
    from pgregent.cli.statuses import Statuses


@click.command("dsn")
@target_options
@cluster_argument
@role_option("Only the first member with this role.")
@click.option("-m", "--member", metavar="NAME", help="Only this member.")
@click.option("--read-only", "--ro", is_flag=True, help="For reading, from standbys if possible.")
@click.option("--show-password", is_flag=True, help="Put the password into it, not its file.")
def command(
    target: Target, role: str | None, member: str | None, *, read_only: bool, show_password: bool
) -> None:
    """Print a connection string.

    With -d the application's, through the entry point; it names a file that holds the password,
    and programs that cannot use one need --show-password. With -c all members, of which libpq
    finds the primary (or a standby) by itself; user and database are yours to add. With -r or -m
    host and port of one member's PostgreSQL, past the entry point.
    """
    if role or member:
        if (role and member) or read_only or show_password:
            raise Refused("--role and --member: give one, and no other option about whom to reach")
        click.echo(_of_member(ask_or_fail(target), role or "any", member))
    elif target.directory is not None:
        click.echo(target.directory.dsn(read_only=read_only, show_password=show_password))
    elif show_password:
        raise Refused("--show-password: an agent's file does not say who the application is")
    else:
        click.echo(_of_members(ask_or_fail(target), read_only))


def _of_member(statuses: "Statuses", role: str, wanted: str | None) -> str:
    members = [m for m in (statuses.best or {}).get("members") or () if m.get("host")]
    for member in members:
        name = member["name"]
        if wanted in (None, name) and has_role(name, statuses.primary, role):
            return f"host={member['host']} port={member['port']}"
    known = ", ".join(m["name"] for m in members) or "nobody"
    asked = f"--member {wanted}" if wanted else f"--role {role}"
    raise Refused(f"{asked}: no such member; known: {known}, primary: {statuses.primary}")


def _of_members(statuses: "Statuses", read_only: bool) -> str:
    members = [m for m in (statuses.best or {}).get("members") or () if m.get("host")]
    hosts = ",".join(str(m["host"]) for m in members)
    ports = ",".join(str(m["port"]) for m in members)
    wanted = "prefer-standby" if read_only else "read-write"
    return f"host={hosts} port={ports} target_session_attrs={wanted}"
