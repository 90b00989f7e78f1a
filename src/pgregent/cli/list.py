"""`pgregent list`: the members, in patronictl's columns and ours."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pgregent.cli.cluster_dir import HOST
from pgregent.cli.options import (
    FORMATS,
    format_option,
    print_rows,
    print_table,
    show_again,
    watch_options,
)
from pgregent.cli.target import Target, ask, cluster_argument, target_options

if TYPE_CHECKING:
    from pgregent.cli.statuses import Statuses

Rows = Sequence[dict[str, Any]]

_ALWAYS = (
    *("Cluster", "Member", "Host", "Role", "State", "TL"),
    *("Receive LSN", "Receive Lag", "Replay LSN", "Replay Lag"),
)
_WHERE_THERE_ARE_ANY = ("Pending restart", "Pending restart reason", "Tags")
SILENT = "its agent does not answer"


@click.command("list")
@target_options
@cluster_argument
@click.option("-e", "--extended", is_flag=True, help="All columns, also those without a value.")
@click.option("-t", "--timestamp", is_flag=True, help="Say first what time it is (pretty only).")
@format_option(*FORMATS)
@watch_options
def command(
    target: Target, *, extended: bool, timestamp: bool, form: str, every: float | None
) -> None:
    """List the members: role, state, timeline, lag in MB, and why each is as it is.

    json, yaml and tsv have patronictl's keys, in its units. Exit code 1 when no agent answers.
    """

    def show() -> bool:
        statuses = ask(target)
        if timestamp and form == "pretty":
            click.echo(time.strftime("%Y-%m-%d %H:%M:%S%z"))
        _print(target, statuses, form, extended)
        if statuses.best is None:
            click.echo(target.silence, err=True)
        return statuses.best is not None

    show_again(every, show)


def _print(target: Target, statuses: "Statuses", form: str, extended: bool) -> None:
    rows = member_rows(target, statuses)
    columns = columns_of(rows, extended)
    if form != "pretty":
        print_rows(form, columns, rows)
        return
    print_table(f"Cluster: {target.scope}", columns[1:-1], rows)
    for row in rows:
        click.echo(f"{row['Member']}: {row['Why']}")
    best = statuses.best or {}
    if best.get("paused"):
        click.echo("Maintenance mode: on")
    for sentence in (best.get("why"), best.get("succession")):
        click.echo(sentence or "", nl=bool(sentence))


def columns_of(rows: Rows, extended: bool = False) -> Sequence[str]:
    """The columns that are shown: the cluster's name, patronictl's, and why."""
    some = (c for c in _WHERE_THERE_ARE_ANY if extended or any(row[c] for row in rows))
    return (*_ALWAYS, *some, "Why")


def member_rows(target: Target, statuses: "Statuses") -> list[dict[str, Any]]:
    """One row per member, whether its agent answers or not."""
    known = {m["name"]: m for m in (statuses.best or {}).get("members") or ()}
    names = sorted({*target.agents, *known})
    return [_row(target, statuses, name, known.get(name) or {}) for name in names]


def _row(target: Target, statuses: "Statuses", name: str, member: dict[str, Any]) -> dict[str, Any]:
    is_silent = name in statuses.silent
    # Only the member itself tells these.
    own = statuses.by_node.get(name) or {}
    pending: dict[str, Sequence[str]] = own.get("pending_restart") or {}
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
        "Pending restart": "*" if pending else "",
        "Pending restart reason": "\n".join(f"{k}: {v[0]}->{v[1]}" for k, v in pending.items()),
        "Tags": own.get("tags") or "",
        "Why": why,
    }


def _server(target: Target, name: str, member: dict[str, Any]) -> str:
    if member.get("host"):
        return f"{member['host']}:{member.get('port')}"
    return f"{HOST}:{target.directory.node(name).port}" if target.directory else ""


def _megabytes(lag: object) -> int | None:
    return round(lag / 1024 / 1024) if isinstance(lag, int) else None
