"""Members by patronictl's names of roles."""

from typing import Any

import click

ROLES = ("leader", "primary", "standby-leader", "replica", "standby", "any")


def role_option(help_text: str, default: str | None = None) -> Any:
    """The option -r."""
    return click.option("-r", "--role", type=click.Choice(ROLES), default=default, help=help_text)


def has_role(name: str, primary: str | None, role: str) -> bool:
    """Whether the member has it; there are no standby clusters, so nobody is `standby-leader`."""
    match role:
        case "any":
            return True
        case "leader" | "primary":
            return name == primary
        case "replica" | "standby":
            return name != primary
        case _:
            return False
