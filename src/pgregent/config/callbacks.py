"""The section `postgresql.callbacks`: scripts that are run when something has happened."""

import shlex
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

from pgregent.config.section import Section


def _command(value: object) -> str:
    expected = "a command, as in `/etc/pgregent/moved.sh --quiet`"
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(expected)
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"{expected} ({str(error).lower()})") from None
    if not words:
        raise ValueError(expected)
    return value


Command = Annotated[str | None, BeforeValidator(_command)]


class Callbacks(Section):
    """Each is started with three more arguments: its action, the role and the scope."""

    on_start: Command = Field(
        default=None,
        description="a command that is run after PostgreSQL began to serve here; it gets its own "
        "name, the role (primary, replica) and the scope as arguments, nothing waits for it, and "
        "the next one kills it",
    )
    on_stop: Command = Field(default=None, description="the same after PostgreSQL ended")
    on_role_change: Command = Field(
        default=None, description="the same after it became the primary, or a standby again"
    )
    on_reload: Command = Field(
        default=None, description="the same after PostgreSQL read a changed configuration"
    )
    on_restart: Command = Field(
        default=None, description="the same after a restart that somebody asked for"
    )

    @property
    def commands(self) -> Mapping[str, tuple[str, ...]]:
        """The words of each command that is given, by its action."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: tuple(shlex.split(text)) for name, text in given.items() if text}
