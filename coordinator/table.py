"""Tables for a terminal of any width: nothing that somebody may want to copy is ever cut. Pure.

Cells are folded between words, and a command in backquotes is one word. Where not even that makes
the table narrow enough, its last column goes below each row, and in the end each row becomes a
block of named values.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_GAP: Final = 2
_INDENT: Final = "    "
_WORD: Final = re.compile(r"`[^`]*`\S*|\S+")


@dataclass(frozen=True, slots=True)
class Table:
    """Headers and rows of cells, which are printable text without line breaks."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]

    def without_empty_columns(self) -> "Table":
        """Without columns in which no row says anything; the first one stays."""
        kept = [
            column
            for column in range(len(self.headers))
            if not column or any(row[column] for row in self.rows)
        ]
        return Table(
            [self.headers[column] for column in kept],
            [[row[column] for column in kept] for row in self.rows],
        )

    @property
    def lines(self) -> list[Sequence[str]]:
        """The headers, then the rows."""
        return [self.headers, *self.rows]

    def natural(self) -> list[int]:
        """How wide each column is if nothing is folded."""
        return [
            max(width(line[column]) for line in self.lines) for column in range(len(self.headers))
        ]

    def narrowest(self) -> list[int]:
        """How wide each column is at least: its longest word."""
        return [
            max((width(word) for line in self.lines for word in words(line[column])), default=1)
            for column in range(len(self.headers))
        ]


def fitted(table: Table, columns: int) -> Iterator[str]:
    """The lines of a table on a terminal that has so many columns."""
    table = table.without_empty_columns()
    natural, narrowest = table.natural(), table.narrowest()
    if _sum(narrowest) <= columns:
        yield from _drawn(table, _shared_out(natural, narrowest, columns))
    elif len(narrowest) > 1 and _sum(narrowest[:-1]) <= columns:
        widths = _shared_out(natural[:-1], narrowest[:-1], columns)
        head = Table(table.headers[:-1], [row[:-1] for row in table.rows])
        yield from _drawn(head, widths, below=[row[-1] for row in table.rows], columns=columns)
    else:
        yield from _blocks(table)


def aligned(table: Table) -> Iterator[str]:
    """The lines of a table for `grep` and `awk`: every column, a row a line, however long."""
    filled = Table(table.headers, [[cell or "-" for cell in row] for row in table.rows])
    yield from _drawn(filled, filled.natural())


def words(text: str) -> list[str]:
    """The words of a text; a command in backquotes is one."""
    return _WORD.findall(text)


def width(text: str) -> int:
    """Columns on a terminal: wide characters take two, marks on letters none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def folded(text: str, columns: int) -> list[str]:
    """A text in lines of at most so many columns, as far as no word is longer."""
    if width(text) <= columns:
        return [text]
    lines: list[str] = []
    for word in words(text):
        if lines and width(lines[-1]) + 1 + width(word) <= columns:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _sum(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _shared_out(natural: Sequence[int], narrowest: Sequence[int], columns: int) -> list[int]:
    """The width of each column: what is left over goes first to those that need little more."""
    widths = list(narrowest)
    left = columns - _sum(widths)
    for column in sorted(range(len(widths)), key=lambda one: natural[one] - narrowest[one]):
        more = min(natural[column] - widths[column], left)
        widths[column] += more
        left -= more
    return widths


def _drawn(
    table: Table, widths: Sequence[int], below: Sequence[str] = (), columns: int = 0
) -> Iterator[str]:
    yield _row(table.headers, widths)
    for number, cells in enumerate(table.rows):
        parts = [folded(cell, wide) for cell, wide in zip(cells, widths, strict=True)]
        for line in range(max(map(len, parts))):
            yield _row([part[line] if line < len(part) else "" for part in parts], widths)
        if below and below[number]:
            yield from (_INDENT + line for line in folded(below[number], columns - len(_INDENT)))


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (wide - width(cell)) for cell, wide in zip(cells, widths, strict=True))
    return (" " * _GAP).join(padded).rstrip()


def _blocks(table: Table) -> Iterator[str]:
    """Each row on lines of its own, which the terminal breaks where it must."""
    for row in table.rows:
        yield row[0]
        for header, cell in zip(table.headers[1:], row[1:], strict=True):
            if cell:
                yield f"{_INDENT}{header}: {cell}"
