"""What is kept of a database: generations in files of their own, and bundles, in the order of time.

A generation that a bundle has is taken from there: a file of that number is the same, or was put
there by a writer that came too late. Bundles may overlap, where two hosts bundled at once.
"""

import contextlib
import errno
import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host.errors import DatabaseDamagedError
from shared.nas.nas_errors import nas_error
from shared.nas.reading import read_file
from shared.state.store.bundle import LIMIT_BYTES, Bundle, BundleName, bundle_names, unpack
from shared.state.store.layout import names_in

#: What is wrong with one file, and says nothing of the NAS: it is none of ours, or not for us.
OF_ONE_FILE: Final = frozenset(
    {errno.EACCES, errno.EINVAL, errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EPERM}
)


@dataclass(frozen=True, slots=True)
class Region:
    """Bundles that overlap, with the files among their numbers; or files that are in none.

    `files` are numbers, oldest first.
    """

    names: tuple[BundleName, ...]
    files: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many generations there are in it, about."""
        return len(self.files) + sum(name.last - name.first + 1 for name in self.names)


@dataclass(frozen=True, slots=True)
class Opened:
    """A region whose bundles were read. `damaged` are those that could not be, and why."""

    bundles: tuple[Bundle, ...]
    files: tuple[int, ...]
    damaged: tuple[tuple[BundleName, str], ...]

    @property
    def numbers(self) -> list[int]:
        """The numbers of all generations that can be read from it, oldest first."""
        return sorted({*self.files, *(each for bundle in self.bundles for each in bundle.numbers)})

    def bundle_of(self, number: int) -> Bundle | None:
        """The bundle that has a generation; None if none has."""
        return next((bundle for bundle in self.bundles if number in bundle), None)

    def generations(self) -> Iterator[tuple[int, bytes | None]]:
        """All its generations, oldest first; None for the bytes of one that is in a file.

        Empty bytes, which are no generation, for one that cannot be made of its bundle.
        """
        last = 0
        sources: list[Iterator[tuple[int, bytes | None]]] = [
            *map(_all_of, self.bundles),
            ((number, None) for number in self.files),
        ]
        for number, data in heapq.merge(*sources, key=lambda found: found[0]):
            if number != last:
                yield number, data
            last = number


def _all_of(bundle: Bundle) -> Iterator[tuple[int, bytes]]:
    last = 0
    with contextlib.suppress(DatabaseDamagedError):
        for last, data in bundle.generations():
            yield last, data
    yield from ((number, b"") for number in bundle.numbers if number > last)


def bundles_in(root: Path) -> list[BundleName]:
    """The bundles of the history, oldest first; none if it cannot be listed."""
    return bundle_names(names_in(root / "history"))


def regions(names: Sequence[BundleName], files: Sequence[int]) -> list[Region]:
    """Everything that is kept, oldest first. Both are given oldest first."""
    found: list[Region] = []
    done = 0
    chunk: list[BundleName] = []
    for name in [*names, None]:
        if chunk and (name is None or name.first > max(each.last for each in chunk)):
            first, last = chunk[0].first, max(each.last for each in chunk)
            start, end = bisect_left(files, first), bisect_right(files, last)
            found += [Region((), tuple(files[done:start]))] if done < start else []
            found.append(Region(tuple(chunk), tuple(files[start:end])))
            chunk, done = [], end
        chunk += [name] if name is not None else []
    return [*found, Region((), tuple(files[done:]))] if done < len(files) else found


def opened(root: Path, region: Region) -> Opened:
    """Reads the bundles of a region. Raises `NasError` if the NAS is away."""
    bundles, damaged = [], []
    for name in region.names:
        try:
            bundles.append(read_bundle(root, name))
        except DatabaseDamagedError as error:
            if name in bundles_in(root):  # else it went for its age since it was listed
                damaged.append((name, error.message))
    return Opened(tuple(bundles), region.files, tuple(damaged))


def read_bundle(root: Path, name: BundleName) -> Bundle:
    """Reads one bundle. Raises `DatabaseDamagedError`, `NasError`."""
    try:
        return unpack(name, read_file(root / "history" / str(name), LIMIT_BYTES))
    except ValueError as error:
        raise damaged_bundle(name, str(error)) from None
    except FileNotFoundError:
        raise damaged_bundle(name, "it is gone") from None
    except OSError as error:
        if error.errno in OF_ONE_FILE:
            raise damaged_bundle(name, str(error.strerror)) from None
        raise nas_error(error, f"read the history in {root}") from error


def damaged_bundle(name: BundleName, what: str) -> DatabaseDamagedError:
    """What is said of a bundle that cannot be read."""
    return DatabaseDamagedError(
        f"the commits {name.first} to {name.last} cannot be read: their bundle {name} is damaged: "
        f"{what}",
        hint="they serve the log only: nothing needs to be done. A backup of the NAS may have it",
    )
