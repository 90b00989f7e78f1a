"""`pgregent wal-archive push|fetch`: PostgreSQL's archive_command and restore_command."""

import signal
from typing import Any

import click

_EXIT_FAILED = 1
_EXIT_ABSENT = 1
# PostgreSQL takes up to 125 for "not in the archive", and ends a recovery there; above, recovery
# stops instead. 126 and 127 would be logged as the shell's own, 128 to 192 as signals.
_EXIT_STOP_RECOVERY = 200


class _Archive(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            error.show()
            raise SystemExit(_EXIT_STOP_RECOVERY) from None


class _Fetch(click.Command):
    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            # A mistake in restore_command is not the end of the archive either.
            error.show()
            raise SystemExit(_EXIT_STOP_RECOVERY) from None


_archive = click.option(
    "--archive", required=True, metavar="DIR", help="The archive; a subdirectory for each cluster."
)
_system_id = click.option(
    "--system-id", type=click.IntRange(min=1), help="Whose archive, outside a data directory."
)


@click.group("wal-archive", cls=_Archive)
def command() -> None:
    """Archive WAL in a directory and fetch it from there, as PostgreSQL's commands."""


@command.command("push")
@_archive
@_system_id
@click.argument("path", metavar="%p")
def push(archive: str, system_id: int | None, path: str) -> None:
    """Archive the file %p: archive_command = 'pgregent wal-archive push --archive DIR %p'.

    Success if the same file is in the archive already. Exit code 1: it is not archived, and
    PostgreSQL tries again.
    """
    from pgregent.adapters.postgres import archive as wal_archive
    from pgregent.core.errors import Refused

    try:
        note = wal_archive.push(archive, path, system_id)
    except Refused as error:
        _say(f"error: {error}")
        raise SystemExit(_EXIT_FAILED) from None
    if note:
        _say(note)


@command.command("fetch", cls=_Fetch)
@_archive
@_system_id
@click.argument("name", metavar="%f")
@click.argument("path", metavar="%p")
def fetch(archive: str, system_id: int | None, name: str, path: str) -> None:
    """Copy the file %f to %p: restore_command = 'pgregent wal-archive fetch --archive DIR %f %p'.

    Exit code 1: the archive does not have it, or a standby cannot get it now and tries again.
    Exit code 200: it cannot be had for another reason; recovery stops, instead of ending early.
    """
    from pgregent.adapters.postgres import archive as wal_archive

    # Ctrl-C reaches all of a terminal's processes. click would end with 1: absent.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        if wal_archive.fetch(archive, name, path, system_id):
            return
    except Exception as error:  # whatever it is, it is not the end of the archive
        from pgregent.core.errors import Refused

        what = str(error) if isinstance(error, Refused) else f"cannot fetch {name}: {error!r}"
        _say(f"error: {what}")
        retried = wal_archive.is_standby(path)
        raise SystemExit(_EXIT_FAILED if retried else _EXIT_STOP_RECOVERY) from None
    raise SystemExit(_EXIT_ABSENT)


def _say(text: str) -> None:
    click.echo(f"pgregent wal-archive: {text}", err=True)
