"""Bring the files of a copy to another directory: one step of a move each.

By renaming where that goes; else copied, and read back from there before they count.
"""

import errno
import os
from typing import Final

from shared.copies import sidecar as sidecars
from shared.copies import source_removal
from shared.copies.copying import Route, Transport, copy_file
from shared.copies.files import NasFiles, write_file
from shared.copies.names import SIDES, Suffix, final_name, partial_name
from shared.copies.sidecar import Sidecar, SideFile
from shared.copies.space import check_room
from shared.host.errors import CopyError
from shared.nas.reading import look, present, read_file

#: What a file system or server answers that has no hard links there, or between the two places.
_NO_LINKS: Final = frozenset(
    {
        errno.EXDEV,
        errno.EPERM,
        errno.EMLINK,
        errno.ENOSYS,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.EACCES,
        errno.EINVAL,
    }
)


def write_sidecar(files: NasFiles, route: Route, stamp: str) -> None:
    """Bring sidecar and checksum line to the target.

    An older sidecar there has no `.ova` beside it and describes nothing.
    """
    sidecar = sidecars.read_named(route.source, final_name(stamp, "json"), stamp)
    original = read_file(
        route.source / final_name(stamp, "json"), sidecars.LIMIT_BYTES, follow=False
    )
    texts: dict[Suffix, bytes] = {"sha256": sidecar.checksum_lines(), "json": original}
    for suffix, data in texts.items():
        temporary = partial_name(stamp, route.claim, suffix)
        files.remove(route.target, temporary)
        write_file(files, route.target, temporary, data)
        files.rename(route.target, temporary, final_name(stamp, suffix))
    files.sync_directory(route.target)


def bring_side_files(files: NasFiles, route: Route, stamp: str) -> None:
    """Bring the side files to the target; they stay at the source as long as its `.ova`."""
    expected = sidecars.read_named(route.target, final_name(stamp, "json"), stamp).files
    here, there = look(route.source), look(route.target)
    for suffix in SIDES:
        name = final_name(stamp, suffix)
        if not present(here, name) or name in there:
            continue
        if suffix not in expected:
            raise CopyError(f"{name} is none of its files")
        try:
            files.link(route.source, route.target, name)
        except (FileExistsError, FileNotFoundError):
            continue  # a request that was repeated, or another process: the next look tells
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _copy_file(
                files, route, partial_name(stamp, route.claim, suffix), name, expected[suffix]
            )
    files.sync_directory(route.target)


def bring_ova(files: NasFiles, route: Route, stamp: str) -> None:
    """Bring the `.ova` to the target: renamed, or copied and verified on another file system."""
    name = final_name(stamp, "ova")
    try:
        files.move(route.source, route.target, name)
    except FileNotFoundError:
        return  # it has just been moved: the next look tells
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(files, route, sidecars.read_named(route.target, final_name(stamp, "json"), stamp))
    files.sync_directory(route.target)
    files.sync_directory(route.source)


def _copy(files: NasFiles, route: Route, sidecar: Sidecar) -> None:
    """Copy the `.ova`, and only then remove the source."""
    name = final_name(sidecar.stamp, "ova")
    before = look(route.source).get(name)
    _copy_file(
        files,
        route,
        partial_name(sidecar.stamp, route.claim, "ova"),
        name,
        SideFile(sidecar.size, sidecar.sha256),
    )
    files.sync_directory(route.target)
    if present(look(route.target), name):
        source_removal.remove_verified(
            files, route, sidecar.stamp, before, sidecar.sha256
        )  # `_copy_file` has read it back


def _copy_file(
    files: NasFiles, route: Route, temporary: str, name: str, expected: SideFile
) -> None:
    room = os.statvfs(route.target)
    check_room(room.f_bavail * room.f_frsize, expected.size, route.reserve)
    copy_file(
        files,
        Transport(route.source, route.target, name, temporary, expected),
        check=route.check,
        progress=route.progress,
    )
