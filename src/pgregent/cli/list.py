"""`pgregent list`: the members, in patronictl's columns and ours."""

from typing import TYPE_CHECKING, Any

import click

from pgregent.cli.cluster_dir import HOST
from pgregent.cli.options import FORMATS, format_option, print_rows, print_table
from pgregent.cli.target import Target, ask, find_target, target_options

if TYPE_CHECKING:
    from pgregent.cli.statuses import Statuses

COLUMNS = (
    *("Cluster", "Member", "Host", "Role", "State", "TL"),
    *("Receive LSN", "Receive Lag", "Replay LSN", "Replay Lag", "Why"),
)
SILENT = "its agent does not answer"


@click.command("list")
@target_options
@format_option(*FORMATS)
def command(directory: str | None, config_file: str | None, form: str) -> None:
    """List the members: role, state, timeline, lag in MB, and why each is as it is.

    json, yaml and tsv have patronictl's keys, in its units. Exit code 1 when no agent answers.
    """
    target = find_target(directory, config_file)
    statuses = ask(target)
    rows = member_rows(target, statuses)
    if form == "pretty":
        print_table(f"Cluster: {target.scope}", COLUMNS[1:-1], rows)
        for row in rows:
            click.echo(f"{row['Member']}: {row['Why']}")
        best = statuses.best or {}
        for sentence in (best.get("why"), best.get("succession")):
            click.echo(sentence or "", nl=bool(sentence))
    else:
        print_rows(form, COLUMNS, rows)
    if statuses.best is None:
        click.echo(f"no agent answers; {target.hint}", err=True)
        raise SystemExit(1)


def member_rows(target: Target, statuses: "Statuses") -> list[dict[str, Any]]:
    """One row per member, whether its agent answers or not."""
    known = {m["name"]: m for m in (statuses.best or {}).get("members") or ()}
    names = sorted({*target.agents, *known})
    return [_row(target, name, known.get(name) or {}, statuses.silent) for name in names]


def _row(target: Target, name: str, member: dict[str, Any], silent: list[str]) -> dict[str, Any]:
    is_silent = name in silent
    why = str(member.get("why") or "")
    if is_silent:
        why = f"{SILENT}; {why}" if why not in ("", SILENT) else SILENT
    return {
        "Cluster": target.scope,
        "Member": name,
        "Host": _server(target, name, member),
        "Role": str(member.get("role") or "").replace("_", " ").title(),
        "State": member.get("state") or "unknown",
        "TL": member.get("timeline"),
        "Receive LSN": member.get("receive_lsn"),
        "Receive Lag": _megabytes(member.get("receive_lag")),
        "Replay LSN": member.get("replay_lsn"),
        "Replay Lag": _megabytes(member.get("replay_lag")),
        "Why": why,
    }


def _server(target: Target, name: str, member: dict[str, Any]) -> str:
    if member.get("host"):
        return f"{member['host']}:{member.get('port')}"
    return f"{HOST}:{target.directory.node(name).port}" if target.directory else ""


def _megabytes(lag: object) -> int | None:
    return round(lag / 1024 / 1024) if isinstance(lag, int) else None
