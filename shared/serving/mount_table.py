"""What the kernel's list of mounts says."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TableRow:
    """What is mounted where, by what; `owner` is who mounted it, of FUSE alone."""

    source: str
    place: str
    system: str
    owner: int | None


def read(table: Path) -> list[TableRow]:
    """The rows; none if it cannot be read."""
    try:
        text = table.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return []
    found = []
    for line in text.split("\n"):  # names may have whatever else ends a line
        source, place, system, options = (*map(_unescaped, line.split(" ")), "", "", "", "")[:4]
        found.append(TableRow(source, place, system, _owner(options)))
    return found


def _owner(options: str) -> int | None:
    """Who mounted it: the kernel says that, not who did."""
    for each in options.split(","):
        name, _, value = each.partition("=")
        if name == "user_id" and value.isdecimal():
            return int(value)
    return None


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
