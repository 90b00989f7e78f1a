"""What several commands share: the option -d, and printing rows in a format."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

_TABLE_WIDTH_MAX = 500
FORMATS = ("pretty", "json", "yaml", "tsv")

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


def print_json(value: object) -> None:
    """Print for programs and people alike."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_rows(form: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as json, yaml (both without empty values, as patronictl does) or tsv."""
    filled = [{c: row[c] for c in columns if row.get(c) not in ("", None)} for row in rows]
    match form:
        case "json":
            print_json(filled)
        case "yaml":
            import yaml

            click.echo(yaml.safe_dump(filled, sort_keys=False, allow_unicode=True), nl=False)
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
