"""Bring the files of a copy to another directory: one step of a move each.

By renaming where that goes; else copied, and read back from there before they count.
"""

import errno
import logging
import os
from collections.abc import Mapping
from typing import Final

from shared.copies import first_reading, screenshots, sidecar_files, source_removal
from shared.copies import sidecar as sidecars
from shared.copies.copy_files import NasFiles, write_file
from shared.copies.copying import Route, Transport, copy_file
from shared.copies.names import SIDES, Suffix, final_name, partial_name
from shared.copies.sidecar import Sidecar
from shared.copies.sidecar_fields import Screenshot, SideFile
from shared.copies.space_needed import check_room
from shared.host.errors import CopyError
from shared.nas.reading import Entry, look, present, read_file
from shared.ova.check import sha256_of

log: Final = logging.getLogger(__name__)

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
    """Bring sidecar and checksum line to the target, and before them the screenshot.

    An older sidecar there has no `.ova` beside it and describes nothing.
    """
    sidecar = sidecar_files.read_named(route.source, final_name(stamp, "json"), stamp)
    original = read_file(
        route.source / final_name(stamp, "json"), sidecars.LIMIT_BYTES, follow=False
    )
    if sidecar.shown is not None:
        _bring_screenshot(files, route, stamp, sidecar.shown)
    texts: dict[Suffix, bytes] = {"sha256": sidecar.checksum_lines(), "json": original}
    for suffix, data in texts.items():
        temporary = partial_name(stamp, route.claim, suffix)
        files.remove(route.target, temporary)
        write_file(files, route.target, temporary, data)
        files.rename(route.target, temporary, final_name(stamp, suffix))
    files.sync_directory(route.target)


def _bring_screenshot(files: NasFiles, route: Route, stamp: str, shown: Screenshot) -> None:
    """Bring the screenshot to the target. One that is not as the sidecar says is left behind.

    So is one that is too large, or that the target does not take: no copy stays for a picture.
    """
    name, expected = final_name(stamp, "png"), SideFile(shown.size, shown.sha256)
    here, there = look(route.source), look(route.target)
    if shown.size > screenshots.LIMIT_BYTES or _size(here, name) != shown.size:
        return
    if _size(there, name) == shown.size and sha256_of(route.target, name) == shown.sha256:
        return
    try:
        if name not in there:
            files.link(route.source, route.target, name)
            return
    except (FileExistsError, FileNotFoundError):
        return  # another process: what it leaves is passed over if it is not the right one
    except OSError as error:
        if error.errno not in _NO_LINKS:
            log.warning("the screenshot of %s stays behind: %s", stamp, error.strerror)
            return
    try:
        _copy_file(files, route, partial_name(stamp, route.claim, "png"), name, expected)
    except (CopyError, OSError) as error:
        log.warning("the screenshot of %s stays behind: %s", stamp, error)


def _size(names: Mapping[str, Entry], name: str) -> int:
    """How large a file is; -1 if there is none."""
    return names[name].size if present(names, name) else -1


def bring_side_files(files: NasFiles, route: Route, stamp: str) -> None:
    """Bring the side files to the target; they stay at the source as long as its `.ova`."""
    expected = sidecar_files.read_named(route.target, final_name(stamp, "json"), stamp).needed_files
    here, there = look(route.source), look(route.target)
    for suffix in (*SIDES, *(("index",) if "index" in expected else ())):
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
    """Bring the `.ova` to the target: renamed, or copied and verified on another file system.

    One that was never read in full is read before it is copied, and no more is done then.
    """
    name = final_name(stamp, "ova")
    try:
        files.move(route.source, route.target, name)
    except FileNotFoundError:
        return  # it has just been moved: the next look tells
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        sidecar = sidecar_files.read_named(route.target, final_name(stamp, "json"), stamp)
        if not sidecar.read_in_full:
            _read_in_full(files, route, sidecar)
            return
        _copy(files, route, sidecar)
    files.sync_directory(route.target)
    files.sync_directory(route.source)


def _read_in_full(files: NasFiles, route: Route, sidecar: Sidecar) -> None:
    """Read the `.ova` where it is, so that its digest is known when it is copied.

    Its sidecar is another one then, which is brought to the target next.
    """

    def report(done: int, total: int) -> None:
        route.progress(done, total)
        route.check()

    found = first_reading.check_first(route.source, sidecar, progress=report)
    first_reading.note(files, route.source, sidecar, found, route.claim)


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
