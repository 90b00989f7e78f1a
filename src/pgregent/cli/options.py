"""What several commands share: the option -d, and printing rows in a format."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

_TABLE_WIDTH_MAX = 500
_YAML_WIDTH = 200
FORMATS = ("pretty", "json", "yaml", "yml", "tsv")

dir_option = click.option(
    "-d",
    "--dir",
    "directory",
    metavar="DIR",
    help="The cluster's directory [default: $PGREGENT_DIR, else ./pgregent-data].",
)


def format_option(*formats: str, default: str = "pretty") -> Any:
    """The option -f with these formats."""
    return click.option(
        "-f", "--format", "form", type=click.Choice(formats), default=default, show_default=True
    )


def watch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options -w and -W, as `every`: seconds, or None."""
    seconds = click.option(
        "-w",
        "--watch",
        "every",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Show it anew every SECONDS, until Ctrl-C.",
    )
    two = click.option("-W", "every", flag_value=2.0, help="The same every 2 seconds.")
    return seconds(two(command))


def show_again(every: float | None, show: Callable[[], bool]) -> None:
    """Call `show` once, or again and again; exit code 1 where it returns False the only time."""
    shown = show()
    while every is not None:
        time.sleep(every)
        click.clear()
        show()
    if not shown:
        raise SystemExit(1)


def as_yaml(value: object) -> str:
    """As people read and edit it."""
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=_YAML_WIDTH)


def print_json(value: object) -> None:
    """Print for programs and people alike."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_rows(form: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as json, yaml (both without empty values, as patronictl does) or tsv."""
    filled = [{c: row[c] for c in columns if row.get(c) not in ("", None)} for row in rows]
    match form:
        case "json":
            print_json(filled)
        case "yaml" | "yml":
            click.echo(as_yaml(filled), nl=False)
        case _:
            click.echo("\t".join(columns))
            for row in rows:
                click.echo("\t".join(_cell(row.get(column)) for column in columns))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table for people."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.ASCII2)
    for column in columns:
        numeric = column == "TL" or column.endswith(("LSN", "Lag", "Term"))
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    # Rather wrapped by the terminal than cut into columns that nobody can read.
    Console(markup=False, highlight=False, width=_TABLE_WIDTH_MAX).print(table)


def _cell(value: object) -> str:
    return "" if value is None else str(value).replace("\t", " ").replace("\n", " ")
