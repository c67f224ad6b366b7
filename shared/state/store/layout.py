"""What lies where below `vmstate/`, and what it is called.

gen/       the newest generations, a name each
history/   older ones: bundles; and those that are in none yet, a thousand in a directory
node/      the heartbeats of sessions
tmp/       private files, before they get their names
damaged/   what was set aside, and is never removed
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

from shared.nas.reading import list_fresh

#: How a generation gets its name: a hard link, or a directory renamed into place.
Primitive = Literal["link", "directory"]

#: What there is below `vmstate/`.
DIRECTORIES: Final = ("gen", "history", "node", "tmp")
_WIDTH: Final = 20


def generation_name(number: int) -> str:
    """The file name of a generation: padded, so that names sort like numbers."""
    return f"{number:0{_WIDTH}d}"


def generation_numbers(names: Iterable[str]) -> Iterator[int]:
    """The numbers of those names that are a generation's.

    Digits are those of ASCII: Unicode has more, that are no numbers.
    """
    return (
        int(name) for name in names if len(name) == _WIDTH and name.isascii() and name.isdigit()
    )


def unreadable_name(number: int, token: str) -> str:
    """What a generation is called in `damaged/` that was set aside because it cannot be read."""
    return f"{generation_name(number)}.unreadable-{token}"


def unreadable_numbers(root: Path) -> list[int]:
    """The numbers of the generations that were set aside so."""
    names = (name.partition(".unreadable-") for name in names_in(root / "damaged"))
    return sorted(generation_numbers(number for number, found, _token in names if found))


def history_of(root: Path, number: int) -> Path:
    """The directory of the history in which a generation is kept."""
    return root / "history" / f"{number // 1000:07d}"


def history_buckets(names: Iterable[str]) -> list[str]:
    """Those of `names` that are a directory of the history, oldest first."""
    return sorted(name for name in names if name.isascii() and name.isdigit())


def names_in(directory: Path) -> list[str]:
    """The names in a directory; none if it cannot be read."""
    try:
        return list_fresh(directory)
    except OSError:
        return []


def generation_file(path: Path) -> Path:
    """Where the bytes of a generation are, whichever way it got its name `path`.

    That is looked up, not believed: the version file, which says it, may be damaged.
    """
    return path / "snapshot" if path.is_dir() else path
