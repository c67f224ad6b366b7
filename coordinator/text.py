"""What people read: tables, facts, sizes, ages, progress."""

import sys
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from shared.copies.space import human
from shared.host.clock import age, parse_timestamp
from shared.host.duration import spoken
from shared.host.printable import printable
from shared.output import say


def size(count: int | None) -> str:
    """Bytes for people; `-` if unknown."""
    return "-" if count is None else human(count)


def duration(seconds: float | None) -> str:
    """Seconds for people, like `47 min`; `-` if unknown."""
    return "-" if seconds is None else spoken(seconds)


def how_old(seconds: float | None) -> str:
    """`30 h old`."""
    return "of unknown age" if seconds is None else f"{duration(seconds)} old"


def seconds_since(timestamp: str | None, now: datetime) -> float | None:
    """How long ago a timestamp of the database is by this host's clock.

    None if it says nothing (`shared.host.clock.age`).
    """
    passed = age(now, timestamp)
    return None if passed is None else passed.total_seconds()


def local(timestamp: str) -> str:
    """A timestamp of the database as people read it: `2026-11-22 20:38:00Z`. UTC, like all logs."""
    try:
        return parse_timestamp(timestamp).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except ValueError:
        return printable(timestamp)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout.

    With rich on a terminal if it is installed, else aligned text that `grep` and `awk` can read.
    """
    if sys.stdout.isatty() and _rich_table(headers, rows):
        return
    lines = [list(headers), *([printable(cell) or "-" for cell in row] for row in rows)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        say(
            "  ".join(
                cell + " " * (width - _width(cell))
                for cell, width in zip(line, widths, strict=True)
            ).rstrip()
        )


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Named values, one a line; those without a value are left out."""
    shown = [(name, value) for name, value in facts if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        say(f"{name + ':':<{width + 1}}  {value}")


def progress(text: str) -> None:
    """A line that replaces the one before, on a terminal only. An empty text clears it."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{printable(text)}", nl=False, err=True)


def _rich_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(*headers, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(cell) or "-") for cell in row))
    console = Console()
    with console.capture() as shown:
        console.print(table)
    for line in shown.get().splitlines():
        click.echo(line.rstrip())  # rich fills the last column with blanks
    return True


def _width(text: str) -> int:
    """Columns on a terminal: wide characters take two, marks on letters none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
