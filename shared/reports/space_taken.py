"""What the copies of a VM take on the disk of the NAS, as far as the system tells."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.copies import sidecar_files
from shared.copies.names import parse_final
from shared.frozen import extents
from shared.host.errors import CopyError, NasError
from shared.nas.reading import Entry, look
from shared.reports.space_growth import CopySpace, VmSpace

if TYPE_CHECKING:
    from shared.copies.sidecar import Sidecar
    from shared.site import Site
    from shared.state.records import VmRecord

_BLOCK: Final = 512
#: Extents that lie where they say, and take as much as they say.
_PLAIN: Final = extents.LAST | extents.UNWRITTEN | extents.MERGED | extents.SHARED


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of a VM's copies in one directory, by stamp, and bytes of others."""

    directory: Path
    archived: bool
    copies: dict[str, list[Entry]]
    other: int


def of_vm(site: "Site", record: "VmRecord") -> VmSpace:
    """What the copies of a VM take. Raises `NasError`, and what an archive that is away raises."""
    found = [
        _files(directory, archived=archived) for directory, archived in site.directories(record)
    ]
    copies = tuple(copy for files in found for copy in _copies(files))
    paths = [
        files.directory / entry.name
        for files in found
        for entries in files.copies.values()
        for entry in entries
    ]
    blocks = sum(_blocks(path) for path in paths)
    taken_over = sum(copy.size - copy.own for copy in copies)
    united = bytes_together(path for path in paths if path.suffix == ".ova") if taken_over else None
    if united is None:
        least, most = max(0, blocks - taken_over), blocks
    else:
        small = sum(_blocks(path) for path in paths if path.suffix != ".ova")
        least = most = united + small
    other = sum(files.other for files in found)
    return VmSpace(record.key, record.node, copies, least, most, other)


def _files(directory: Path, *, archived: bool) -> _Files:
    copies: dict[str, list[Entry]] = {}
    other = 0
    try:
        entries = look(directory)
    except OSError as error:
        raise NasError(f"cannot list {directory}: {error.strerror}") from None
    for name, entry in entries.items():
        if entry.is_file and (final := parse_final(name)):
            copies.setdefault(final[0], []).append(entry)
        elif entry.is_file:
            other += entry.size
    return _Files(directory, archived, copies, other)


def _copies(files: _Files) -> Iterator[CopySpace]:
    for stamp, entries in files.copies.items():
        size = sum(entry.size for entry in entries)
        with contextlib.suppress(CopyError, OSError):
            described: Sidecar = sidecar_files.read(files.directory, stamp)
            over = described.wire.copied if described.wire else 0
            own = max(0, size - over)
            yield CopySpace(stamp, described.moment, size, own, files.archived)


def _blocks(path: Path) -> int:
    """Bytes of a file's blocks; 0 if it is gone."""
    with contextlib.suppress(OSError):
        return os.stat(path, follow_symlinks=False).st_blocks * _BLOCK
    return 0


def bytes_together(paths: Iterable[Path]) -> int | None:
    """Bytes of the blocks of these files, each counted once; None if the system does not tell."""
    spans = []
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            for extent in extents.read_extents(descriptor):
                if extent.flags & ~_PLAIN:
                    return None
                length = extent.end - extent.start
                spans.append((extent.physical, extent.physical + length))
        except (OSError, ImportError):
            return None
        finally:
            os.close(descriptor)
    return length_together(spans)


def length_together(spans: Iterable[tuple[int, int]]) -> int:
    """How long spans are together, what several of them cover once."""
    total = end = 0
    for start, stop in sorted(spans):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total
