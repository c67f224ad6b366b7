"""Do two paths lead to the same directory, or one into the other, whatever they are called?

Looks come first and cost nothing: the names, what the links lead to, device and inode of the
directory and of all above it, and the kernel's mount table, which tells a bind mount and a second
mount of the same export. A server can still show one directory to two mounts that have nothing in
common here (another protocol, another name of the server, its own disk), so whoever may write also
asks by experiment: `seen_in`.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Final

from shared.nas.mount import NETWORK, Mount, mount_of, mount_table
from shared.nas.reading import list_fresh
from shared.nas.writing import write_new_file

#: The file that is written in one place and looked for in the other.
PLACE_TEST: Final = ".vmbackup-place-test"
#: More tests than run at the same time.
_ATTEMPTS: Final = 16


class Relation(StrEnum):
    """What one directory is to another."""

    SAME = "is"
    CONTAINS = "contains"
    INSIDE = "is inside"
    APART = "is apart from"


def relations(one: Path, other: Path, table: Sequence[Mount] | None = None) -> frozenset[Relation]:
    """What `one` is to `other`, as far as it can be told without writing.

    All that is true; APART if nothing else is. By its name a link in `other` is inside it, and by
    where it leads it may be the same: both count. Neither place has to exist. `table`: the mounts,
    if not this system's. Raises OSError if a place cannot be looked at.
    """
    mounts = list(mount_table()) if table is None else table
    found = {compare(_parts(os.path.normpath(one)), _parts(os.path.normpath(other)))}
    found |= {
        compare(first, second) for first, second in product(_chains(one), list(_chains(other)))
    }
    found |= {
        compare(first, second)
        for first, second in product(_physical(one, mounts), list(_physical(other, mounts)))
    }
    return frozenset(found - {Relation.APART}) or frozenset({Relation.APART})


def compare(one: Sequence[object], other: Sequence[object]) -> Relation:
    """What a place is to another, each given as the parts of one path, from the top."""
    if list(one) == list(other):
        return Relation.SAME
    if list(one) == list(other[: len(one)]):
        return Relation.CONTAINS
    return Relation.INSIDE if list(one[: len(other)]) == list(other) else Relation.APART


def on_one_mount(one: Path, other: Path, table: Sequence[Mount] | None = None) -> bool:
    """Whether both places go with one mount: what unmounts the one takes the other away, too.

    Raises OSError.
    """
    mounts = list(mount_table()) if table is None else table
    if not mounts:  # a system without a mount table: the devices decide
        return _existing(one).st_dev == _existing(other).st_dev
    first, second = (mount_of(os.path.realpath(path), mounts) for path in (one, other))
    return first == second


def first_name_below(
    top: Path, place: Path, table: Sequence[Mount] | None = None
) -> frozenset[str]:
    """The names in `top` by which `place` is reached from there.

    By its name, by where it is, and by the mount table. Raises OSError.
    """
    mounts = list(mount_table()) if table is None else table
    pairs = [(_parts(os.path.normpath(top)), _parts(os.path.normpath(place)))]
    pairs.append((_parts(os.path.realpath(top)), _parts(os.path.realpath(place))))
    pairs += [
        (above, below) for above in _physical(top, mounts) for below in _physical(place, mounts)
    ]
    return frozenset(
        str(below[len(above)])
        for above, below in pairs
        if compare(above, below) is Relation.CONTAINS
    )


def seen_in(written: Path, looked: Sequence[Path], *, attempts: int = _ATTEMPTS) -> Path | None:
    """The first of `looked` that shows a file which is written in `written`, or None.

    All must be directories; one that is not there shows nothing. Nothing is left behind, also not
    what killed tests had left: a test whose file another one has removed for that is made again.
    Raises OSError if it cannot be written, or all `attempts` were disturbed.
    """
    _sweep(written)
    for _ in range(attempts):
        name = f"{PLACE_TEST}.{secrets.token_hex(8)}"
        write_new_file(written / name, b"where am I?\n")
        try:
            found = next((place for place in looked if _shows(place, name)), None)
            if found is not None or name in list_fresh(written):
                return found
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(written / name)
    raise OSError(errno.EBUSY, "others try out the same place all the time", str(written))


def _shows(place: Path, name: str) -> bool:
    """Asks by name, and lists.

    A client that has just looked may answer one of the two from its memory.
    """
    if os.path.lexists(place / name):
        return True
    try:
        return name in list_fresh(place)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _sweep(place: Path) -> None:
    for name in list_fresh(place):
        if name.startswith(f"{PLACE_TEST}."):
            with contextlib.suppress(OSError):
                os.unlink(place / name)


@dataclass(frozen=True, slots=True)
class _Inode:
    device: int
    number: int


def _parts(path: str) -> list[object]:
    return [part for part in path.split("/") if part]


def _chains(path: Path) -> Iterator[list[object]]:
    """The directories that lead to `path`, each as what it is; names where there is none (yet)."""
    real = Path(os.path.realpath(path))
    chain: list[object] = []
    for directory in (*reversed(real.parents), real):
        try:
            status = os.stat(directory)
        except (FileNotFoundError, NotADirectoryError):
            chain.append(directory.name)
        else:
            chain.append(_Inode(status.st_dev, status.st_ino))
    # Two chains to one directory may differ above it (bind mounts), so each directory that is there
    # may begin one.
    for begin, part in enumerate(chain):
        if isinstance(part, _Inode):
            yield chain[begin:]


def _physical(path: Path, mounts: Sequence[Mount]) -> Iterator[list[object]]:
    """The place on its file system, and on the server's where it has one."""
    real = os.path.realpath(path)
    mount = mount_of(real, list(mounts))
    if mount is None:
        return
    below = _parts(os.path.relpath(real, mount.path)) if real != mount.path else []
    # On NFS the root is always said to be /, also of a bind mount, and the source has the whole
    # path.
    if mount.device and not mount.filesystem.startswith("nfs"):
        yield [mount.device, *_parts(mount.root), *below]
    if mount.filesystem in NETWORK:
        server, export = _server_and_export(mount)
        if server:
            yield [server, *_parts(export), *below]


def _server_and_export(mount: Mount) -> tuple[str, str]:
    """Which server, and which path there.

    Of SMB the server's name goes with the share's, in which case does not count.

    The source of an NFS mount names the directory that is seen there, also of a bind mount; that of
    an SMB mount is what the whole was mounted from (seen on Linux 6.1).
    """
    if mount.source.startswith("//"):
        server, _, rest = mount.source[2:].partition("/")
        share, _, below = rest.partition("/")
        root = mount.root.strip("/")
        whole = below if not root or f"/{below}".endswith(f"/{root}") else f"{below}/{root}"
        return f"//{server.casefold()}/{share.casefold()}", whole
    server, colon, export = mount.source.rpartition(":/")
    return (server.casefold(), export) if colon else ("", "")


def _existing(path: Path) -> os.stat_result:
    """Of the nearest directory that is there."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return _existing(path.parent)
