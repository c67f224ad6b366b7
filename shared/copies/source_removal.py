"""Remove from its old directory what a move has brought to the new one.

Nothing goes that was not read at its new place, or is the same file there under another name.
"""

import os
from typing import Final

from shared.copies import first_reading, permits, sidecar_files
from shared.copies.copy_files import NasFiles
from shared.copies.copying import Route
from shared.copies.names import SIDES, Suffix, final_name
from shared.copies.sidecar import Sidecar
from shared.host.errors import CopyError
from shared.nas.reading import Entry, look, present
from shared.ova.check import sha256_of

#: What else goes: the target has it, or has no use for it. The sidecar says of which copy the rest
#: is, and goes last.
_REST: Final[tuple[Suffix, ...]] = ("index", "png", "sha256", "json")


def remove_ova(files: NasFiles, route: Route, stamp: str) -> None:
    """Remove the `.ova` at the source that an earlier call has brought to the target.

    Only if both are what the sidecar says, read again here.
    """
    name = final_name(stamp, "ova")
    sidecar = sidecar_files.read_named(route.target, final_name(stamp, "json"), stamp)
    before = look(route.source).get(name)
    if not sidecar.read_in_full:
        sidecar = _read_in_full(files, route, sidecar)
    digest = sha256_of(route.target, name, progress=route.progress)
    if digest != sidecar.sha256:
        raise CopyError(f"{route.target} has another file of that name, or a damaged one")
    if sha256_of(route.source, name) != sidecar.sha256:
        raise CopyError(f"{route.source} has another file of that name, or a damaged one")
    remove_verified(files, route, stamp, before, digest)


def _read_in_full(files: NasFiles, route: Route, sidecar: Sidecar) -> Sidecar:
    """The sidecar of a copy at the target that was never read in full, once it was."""
    found = first_reading.check_first(route.target, sidecar, progress=route.progress)
    route.check()
    return first_reading.note(files, route.target, sidecar, found, route.claim)


def remove_verified(
    files: NasFiles, route: Route, stamp: str, before: Entry | None, digest: str
) -> None:
    """Remove the `.ova` at the source if it is still the file that was verified.

    Others may have displaced this process and brought another one back. `digest` is that of what
    was read at the target.
    """
    name = final_name(stamp, "ova")
    route.check()
    if before and look(route.source).get(name) == before:
        files.remove_published(
            permits.arrived(route.source, route.target, stamp, [name], digest=digest), name
        )
        files.sync_directory(route.source)


def remove_side_files(files: NasFiles, route: Route, stamp: str) -> None:
    """Remove what lay beside the `.ova` at the source, which has arrived at the target.

    Side files only if the target has them as they should be.
    """
    expected = sidecar_files.read_named(route.target, final_name(stamp, "json"), stamp).needed_files
    here = look(route.source)
    for suffix in (*SIDES, *(("index",) if "index" in expected else ())):
        name = final_name(stamp, suffix)
        if present(here, name):
            if not (
                suffix in expected
                and (
                    _one_file(route, name)
                    or sha256_of(route.target, name) == expected[suffix].sha256
                )
            ):
                raise CopyError(f"{name} is another file at {route.target}, or damaged there")
            route.check()
            files.remove_published(permits.arrived(route.source, route.target, stamp, [name]), name)
    rest = [final_name(stamp, suffix) for suffix in _REST]
    if not present(here, final_name(stamp, "png")):
        rest.remove(final_name(stamp, "png"))
    permit = permits.arrived(route.source, route.target, stamp, rest)
    for name in rest:  # an index of no use elsewhere, too: the next copy there is sent whole
        files.remove_published(permit, name)
    files.sync_directory(route.source)


def _one_file(route: Route, name: str) -> bool:
    """Whether both names lead to the same file: there is nothing to compare then."""
    return os.path.samestat(os.lstat(route.source / name), os.lstat(route.target / name))
