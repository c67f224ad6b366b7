"""Permits to remove files of copies, given when it is proved that these may go.

Retention, moves and commands all ask here, and nowhere else a permit is given. A copy that the
rules let go (`shared.copies.protection`) does; what was moved goes only when it has been read at
its new place, which is another directory.

Each proof reads the directory again, and gives a permit for the files of one copy
(`shared.copies.copy_files`). Call them under a claim on the VM, right before the removal.
"""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from shared.copies import catalogue, protection, sidecar_files
from shared.copies.catalogue import Copy
from shared.copies.copy_files import Permit, refuse_one_directory
from shared.copies.names import SUFFIXES, final_name, parse_partial
from shared.copies.side_files import missing_of_copy
from shared.host.errors import CopyError, IllegalMoveError
from shared.host.printable import quoted
from shared.nas.nas_errors import reported
from shared.nas.reading import look, look_twice, present
from shared.state.hold import require_unheld

#: What some rule wants to keep besides, by stamp: given all copies that are there.
Wanted = Callable[[Iterable[Copy]], Collection[str]]


def superseded(
    directory: Path, uuid: str, stamp: str, wanted: Wanted, *, protect: Collection[str] = ()
) -> Permit | None:
    """The permit for all files of a good copy that a newer one has replaced.

    None if it must stay, or is gone. Raises `NasError`.
    """
    copies = catalogue.read(directory, uuid).copies
    copy = next((copy for copy in copies if copy.stamp == stamp), None)
    if copy is None or not copy.ours or copy.sidecar is None:
        return None
    if protection.must_stay(copies, protect=protect)[stamp] or stamp in wanted(copies):
        return None
    return _permit(directory, stamp, "a newer good copy is there")


def leftover(directory: Path, uuid: str, stamp: str) -> Permit | None:
    """The permit for the small files of a copy of this VM whose removal was interrupted.

    Its `.ova` is gone, and nobody is publishing it. None if that is not so, if its checksum line is
    there still, which a removal takes first (so a person has put the `.ova` aside), or if the
    sidecar cannot tell whose it was. Raises `NasError`.
    """
    with reported(f"look at {directory}"):
        entries = look_twice(directory)
        if final_name(stamp, "ova") in entries or any(
            (partial := parse_partial(name)) and partial.stamp == stamp for name in entries
        ):
            return None
        if final_name(stamp, "sha256") in entries or not present(
            entries, final_name(stamp, "json")
        ):
            return None
        try:
            sidecar = sidecar_files.read_named(directory, final_name(stamp, "json"), stamp)
        except (CopyError, FileNotFoundError):
            return None
    return (
        _permit(directory, stamp, "its .ova was removed before")
        if catalogue.is_of(sidecar, uuid)
        else None
    )


def unneeded_screenshot(directory: Path, stamp: str) -> Permit | None:
    """The permit for the screenshot of a copy that is not there, or whose sidecar has none.

    None if it is no ordinary file, or anything else of the copy is there and its sidecar cannot be
    read, or has one. Raises `NasError`.
    """
    name = final_name(stamp, "png")
    with reported(f"look at {directory}"):
        entries = look_twice(directory)
        if not present(entries, name):
            return None
        others = {final_name(stamp, suffix) for suffix in SUFFIXES} - {name}
        if others & entries.keys():
            try:
                sidecar = sidecar_files.read_named(directory, final_name(stamp, "json"), stamp)
            except (CopyError, FileNotFoundError):
                return None
            if sidecar.screenshot is not None:
                return None
    return Permit(directory, stamp, frozenset({name}), "its copy is gone, or has no screenshot")


def chosen(directory: Path, uuid: str, stamp: str, *, vm: str, last: bool) -> Permit:
    """The permit for all files of a copy that an operator wants removed.

    With `last` also of the last good one. `vm`: its name, for hints. Raises `CopyError` if it is
    not there, `IllegalMoveError` if it is pinned, another VM's, or the last good one, `LockedError`
    if a VM runs from it, `NasError`.
    """
    found = catalogue.read(directory, uuid)
    copy = found.find(stamp)
    if copy is None:
        raise CopyError(f"there is no copy {stamp} in {directory}")
    if not copy.ours:
        raise IllegalMoveError(
            f"{stamp} stays: {copy.problem}", hint="only that VM's own record removes it"
        )
    if copy.pinned:
        raise IllegalMoveError(
            f"{stamp} is pinned", hint=f"`vmbackup-admin unpin {quoted(vm)} {stamp}` first"
        )
    require_unheld(vm, copy.holds, "it cannot be removed", stamp)
    others = [
        other
        for other in found.good
        if other.stamp != stamp and not protection.one_file(other, copy)
    ]
    if copy.good and not last:
        _refuse_the_last(copy, others, vm)
    return _permit(directory, stamp, "an operator said so")


def _refuse_the_last(copy: Copy, others: list[Copy], vm: str) -> None:
    """Raises `IllegalMoveError` if none of the `others` can stand in for a copy."""
    if not others:
        raise IllegalMoveError(
            f"{copy.stamp} is the last good copy", hint="make another backup first, or say --last"
        )
    if any(other.read_in_full for other in others):
        return
    kind = "was read in full" if any(other.sound for other in others) else "is not suspect"
    if copy.read_in_full or kind == "is not suspect":
        raise IllegalMoveError(
            f"{copy.stamp} is the last good copy that {kind}",
            hint=f"`vmbackup-admin verify {quoted(vm)}` first, or say --last",
        )


def arrived(
    source: Path, target: Path, stamp: str, names: Iterable[str], *, digest: str | None = None
) -> Permit:
    """The permit for files of a copy in `source` that are at `target` now.

    `target` is another directory, and has the copy's `.ova`. For the `.ova` itself `digest` is that
    of its bytes as they were read at `target`; it must be what the sidecar there says, and all that
    belongs to the copy must be there. Raises `CopyError` or `NasError` if that is not so, OSError.
    """
    wanted, ova = frozenset(names), final_name(stamp, "ova")
    if not wanted <= {final_name(stamp, suffix) for suffix in SUFFIXES}:
        raise ValueError(f"{sorted(wanted)} are not all files of {stamp}")
    refuse_one_directory(source, target)
    there = look(target)
    sidecar = sidecar_files.read_named(target, final_name(stamp, "json"), stamp)
    if not present(there, ova):
        raise CopyError(f"{ova} is not at {target}")
    if ova in wanted:
        if digest != sidecar.sha256:
            raise CopyError(f"{target} has another file of that name, or a damaged one")
        if lost := missing_of_copy(there, sidecar):
            raise CopyError(f"{target} has not all of the copy: {lost}")
    return Permit(source, stamp, wanted, f"it is in {target}")


def _permit(directory: Path, stamp: str, reason: str) -> Permit:
    return Permit(
        directory, stamp, frozenset(final_name(stamp, suffix) for suffix in SUFFIXES), reason
    )
