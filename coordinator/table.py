"""Tables for a terminal of any width: nothing that somebody may want to copy is ever cut. Pure.

Cells are folded between words, and a command in backquotes is one word. Where that makes the table
not narrow enough, single cells that are too long leave it, or whole columns that say little: a cell
of the first column stands above its row then, any other one below it, with its name.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_GAP: Final = 2
_INDENT: Final = "    "
_WORD: Final = re.compile(r"`[^`]*`\S*|\S+")
#: A cell that is not wider is not folded, if that can be avoided: `12.5 GiB`.
_SHORT: Final = 10
#: Into how many lines a cell is folded at most.
_LINES: Final = 3
#: The last column is text if it is wider. It is never narrower then: it goes below the rows before.
_TEXT: Final = 24
#: The width of a column that is taken out: it has no gap either.
_GONE: Final = -_GAP


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


def fitted(table: Table, columns: int) -> Iterator[str]:
    """The lines of a table on a terminal that has so many columns."""
    table = table.without_empty_columns()
    limits = _limits(table, columns)
    stays = [column for column, limit in enumerate(limits) if limit != _GONE]
    kept = [
        [row[column] if _need(row[column]) <= limits[column] else "" for column in stays]
        for row in table.rows
    ]
    inner = Table([table.headers[column] for column in stays], kept)
    widths = _shared_out(inner.natural(), [limits[column] for column in stays], columns)
    yield from _folded_row(inner.headers, widths)
    for row, cells in zip(table.rows, kept, strict=True):
        left = [
            (column, cell)
            for column, cell in enumerate(row)
            if cell and _need(cell) > limits[column]
        ]
        if left and left[0][0] == 0:
            yield from folded(left.pop(0)[1], columns)
        if any(cells):
            yield from _folded_row(cells, widths)
        for column, cell in left:
            header = "" if _is_text(table, column) else f"{table.headers[column]}: "
            yield from (_INDENT + line for line in folded(header + cell, columns - len(_INDENT)))


def _limits(table: Table, columns: int) -> list[int]:
    """How much the cells of each column may need that stay in it. Of the first one the header does.

    Columns are made narrower, and taken out, where that saves most and few cells have to leave; the
    first columns, which tell rows apart, rather not.
    """
    steps = [_steps(table, column) for column in range(len(table.headers))]

    def saved(column: int) -> float:
        after, before = steps[column][-2:]
        cells = [row[column] for row in table.rows if row[column]]
        leaving = sum(after < _need(cell) <= before for cell in cells)
        return (before - after) * (column + 1) / max(1, leaving) ** 2

    while _sum([widths[-1] for widths in steps]) > columns:
        lower = [column for column, widths in enumerate(steps) if len(widths) > 1]
        if not lower:
            break
        steps[max(lower, key=saved)].pop()
    return [widths[-1] for widths in steps]


def _steps(table: Table, column: int) -> list[int]:
    """How wide a column may be, ascending; `_GONE`: it is taken out."""
    least = max(map(width, words(table.headers[column])), default=1)
    needs = {max(least, _need(row[column])) for row in table.rows}
    if _is_text(table, column):
        return [_GONE, max(_TEXT, *needs)]
    return sorted({least, *needs} if column == 0 else {_GONE, least, *needs})


def _is_text(table: Table, column: int) -> bool:
    """Whether it is the last of several, with sentences."""
    return 0 < column == len(table.headers) - 1 and table.natural()[column] > _TEXT


def aligned(table: Table) -> Iterator[str]:
    """The lines of a table for `grep` and `awk`: every column, a row a line, however long."""
    filled = Table(table.headers, [[cell or "-" for cell in row] for row in table.rows])
    widths = filled.natural()
    yield from (_row(line, widths) for line in filled.lines)


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


def _folded_row(cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    parts = [folded(cell, wide) for cell, wide in zip(cells, widths, strict=True)]
    for line in range(max(map(len, parts))):
        yield _row([part[line] if line < len(part) else "" for part in parts], widths)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (wide - width(cell)) for cell, wide in zip(cells, widths, strict=True))
    return (" " * _GAP).join(padded).rstrip()


def _need(cell: str) -> int:
    """How wide a column must be for a cell, which is folded into three lines at most."""
    if width(cell) <= _SHORT:
        return width(cell)
    return max([-(-width(cell) // _LINES), *map(width, words(cell))])
