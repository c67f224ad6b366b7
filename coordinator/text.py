"""What people read: tables, facts, sizes, ages, progress."""

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import click

from coordinator.table import Table, aligned, fitted, folded
from shared.copies.space_needed import human
from shared.host.clock import age, parse_timestamp
from shared.host.duration import spoken
from shared.host.printable import printable
from shared.output import say

#: Which words of a table have which colour on a terminal.
_STYLES: Final[Mapping[str, Sequence[str]]] = {
    "green": ("CLEAN", "good", "OK"),
    "yellow": ("BACKUP_NECESSARY", "NEW", "WARNING", "UNKNOWN", "suspect", "stale"),
    "cyan": ("RUNNING", "BACKUP_IN_PROGRESS"),
    "red": ("CRITICAL", "damaged", "failed"),
}


def size(count: int | None) -> str:
    """Bytes for people; `-` if unknown."""
    return "-" if count is None else human(count)


def counted(number: int, one: str, many: str = "") -> str:
    """`1 file`, `2 files`; `many` is the plural, if that is not `one` with an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


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

    On a terminal as wide as that, states in colour if rich is installed (unless `NO_COLOR` is set);
    else a row a line with every column, which `grep` and `awk` can read.
    """
    table = Table(headers, [[printable(cell) for cell in row] for row in rows])
    if not sys.stdout.isatty():
        for line in aligned(table):
            say(line)
        return
    lines = list(fitted(table, shutil.get_terminal_size().columns))
    if not _coloured(lines):
        for line in lines:
            say(line)


def print_lines(lines: Iterable[str]) -> None:
    """Lines on stdout. On a terminal long ones are folded between words, and go on indented."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in map(printable, lines):
        indent = line[: len(line) - len(line.lstrip())]
        for number, part in enumerate(folded(line.strip(), columns - len(indent) - 4)):
            say(f"{indent}{'    ' if number else ''}{part}" if columns else line)
            if not columns:
                break


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


def _coloured(lines: Sequence[str]) -> bool:
    """Prints lines with colours for words that say how things stand. False: rich is not here."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return False
    console = Console(soft_wrap=True)
    for line in lines:
        shown = Text(printable(line))
        for style, words in _STYLES.items():
            shown.highlight_regex(rf"(?<![\w-])(?:{'|'.join(words)})(?![\w-])", style)
        console.print(shown)
    return True
