"""`pgregent`: the one command. Each subcommand is imported when it is used."""

import errno
import importlib
import os
import sys
from typing import Any

import click

from pgregent import __version__
from pgregent.config.suggest import did_you_mean
from pgregent.core.errors import Refused, Unavailable

COMMANDS = {
    "up": "up",
    "list": "list",
    "topology": "topology",
    "why": "why",
    "ps": "ps",
    "dsn": "dsn",
    "history": "history",
    "agent": "agent",
    "agent-restart": "agent_restart",
    "switchover": "switchover",
    "failover": "failover",
    "restart": "restart",
    "reinit": "reinit",
    "pause": "pause",
    "resume": "resume",
    "show-config": "show_config",
    "edit-config": "edit_config",
    "reload": "reload",
    "config": "config_command",
    "haproxy": "haproxy",
    "dcs": "dcs_command",
    "adopt": "adopt",
    "release": "release",
    "wal-archive": "wal_archive",
    "gate": "gate_command",
}
_EXIT_BAD_INPUT = 2
_EXIT_UNAVAILABLE = 1


class Commands(click.Group):
    """Finds subcommands by name, and turns the closed set of errors into one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"pgregent.cli.{COMMANDS[cmd_name]}")
        command: click.Command = module.command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            raise Refused(f"no command {name!r}{did_you_mean(name, COMMANDS)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Refused as refused:
            _fail(str(refused), _EXIT_BAD_INPUT)
        except Unavailable as unavailable:
            _fail(str(unavailable), _EXIT_UNAVAILABLE)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(_EXIT_UNAVAILABLE)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS):
                raise
            where = f": {error.filename}" if error.filename else ""
            _fail(f"{error.strerror}{where}", _EXIT_BAD_INPUT)


def _fail(text: str, code: int) -> None:
    click.echo(f"pgregent: error: {text}", err=True)
    sys.exit(code)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="pgregent")
def main() -> None:
    """Keep a PostgreSQL cluster writable: a dead primary is succeeded in tenths of a second.

    `pgregent up` makes and runs a cluster on this machine; `pgregent agent` is one member of any.
    The others look at a cluster and change it, with patronictl's names and options.
    """


if __name__ == "__main__":
    main(prog_name="pgregent")
