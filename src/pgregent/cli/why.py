"""`pgregent why`: what holds now, what is waited for, what would happen."""

from typing import TYPE_CHECKING, Any

import click

from pgregent.cli.options import format_option, print_json
from pgregent.cli.target import Target, ask_or_fail, target_options

if TYPE_CHECKING:
    from pgregent.cli.statuses import Statuses


@click.command("why")
@target_options
@format_option("pretty", "json")
def command(target: Target, form: str) -> None:
    """Say in sentences what holds now, what is waited for, and what each node's death would do."""
    statuses = ask_or_fail(target)
    if form == "json":
        print_json(_summary(statuses))
        return
    for line in _lines(statuses):
        click.echo(line)


def _summary(statuses: "Statuses") -> dict[str, Any]:
    best = statuses.best or {}
    keys = ("primary", "serving", "term", "why", "succession", "if_dies", "dcs")
    members = {
        m["name"]: {"state": m.get("state"), "why": m.get("why")} for m in best.get("members") or ()
    }
    return {
        "v": 1,
        **{key: best.get(key) for key in keys},
        "members": members,
        "silent": statuses.silent,
    }


def _lines(statuses: "Statuses") -> list[str]:
    summary = _summary(statuses)
    lines = [summary["why"] or "nothing is known yet", summary["succession"] or "", ""]
    for name, member in summary["members"].items():
        parts = (member["state"], member["why"])
        lines.append(f"{name}: {': '.join(str(part) for part in parts if part)}")
    lines += [f"{name}: its agent does not answer" for name in summary["silent"]]
    dcs: dict[str, Any] = summary["dcs"] or {}
    lines.append(f"DCS: {dcs.get('why') or ('answers' if dcs.get('ok') else 'unknown')}")
    if_dies: dict[str, str] = summary["if_dies"] or {}
    lines += ["", *(f"if {name} died now: {sentence}" for name, sentence in if_dies.items())]
    return lines
