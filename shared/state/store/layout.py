"""What lies where below `vmstate/`, and what it is called.

gen/       the newest generations, a name each
history/   older ones, a thousand in a directory
node/      the heartbeats of sessions
tmp/       private files, before they get their names
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

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


def history_of(root: Path, number: int) -> Path:
    """The directory of the history in which a generation is kept."""
    return root / "history" / f"{number // 1000:07d}"


def generation_file(path: Path) -> Path:
    """Where the bytes of a generation are, whichever way it got its name `path`.

    That is looked up, not believed: the version file, which says it, may be damaged.
    """
    return path / "snapshot" if path.is_dir() else path
