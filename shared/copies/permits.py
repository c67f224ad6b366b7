"""Which copies must stay, and why; permits to remove the files of others.

Retention, moves and commands all ask here, and nowhere else a permit is given.

Without an operator's word a copy goes only if all of this holds at that moment: its sidecar can be
read and has this VM's UUID; it is good; it is not pinned; it is not the one that was just
published; a newer good copy is there, newer by every sign (`shared.copies.chronology`), which is
another file, and not suspect; and its order to no other good copy is disputed. One with which
nothing is wrong but that VirtualBox would not import it counts for no good one, and goes when a
newer one is there, good or not imported either. What was moved goes only when it has been read at
its new place, which is another directory.

Each proof reads the directory again, and gives a permit for the files of one copy
(`shared.copies.permits`). Call them under a claim on the VM, right before the removal.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from shared.copies import catalogue, chronology
from shared.copies import sidecar as sidecars
from shared.copies.catalogue import Copy
from shared.copies.files import Permit
from shared.copies.names import SUFFIXES, Suffix, final_name, parse_partial
from shared.copies.side_files import missing
from shared.copies.sidecar import SideFile
from shared.host.errors import CopyError, IllegalMoveError, NasError
from shared.host.printable import quoted
from shared.nas.errors import reported
from shared.nas.reading import look, look_twice, present, same_directory

#: Why the first of all copies stays.
NEWEST: Final = "newest good copy"
_SUSPECT: Final = "what is newer took blocks over from a damaged copy, and was not read since"
#: What some rule wants to keep besides, by stamp: given all copies that are there.
Wanted = Callable[[Iterable[Copy]], Collection[str]]


def must_stay(copies: Iterable[Copy], *, protect: Collection[str] = ()) -> dict[str, list[str]]:
    """Why each copy must not go by itself, by stamp.

    An empty list: it may, if no rule of retention keeps it. Pure.

    `protect` are stamps that stay whatever is said of them: that of the copy which was published
    last.
    """
    found = list(copies)
    good = chronology.oldest_first(copy for copy in found if copy.good)
    refused = [copy for copy in found if copy.refused]
    return {
        copy.stamp: list(
            _of_refused(copy, [*good, *refused], protect)
            if copy.refused
            else _reasons(copy, good, protect)
        )
        for copy in found
    }


def _of_refused(copy: Copy, others: list[Copy], protect: Collection[str]) -> Iterator[str]:
    """Why a copy that VirtualBox would not import must stay.

    Its disks are whole, so one that is newer by every sign, good or refused as well, stands in for
    it. It never stands in for a good one.
    """
    if copy.pinned:
        yield "pinned"
    if copy.stamp in protect:
        yield "the last one that was made"
    if not any(
        chronology.supersedes(other, copy) and not (_one_file(other, copy) or other.suspect)
        for other in others
    ):
        yield "the newest state of its disks, although VirtualBox would not import it"


def _reasons(copy: Copy, good: list[Copy], protect: Collection[str]) -> Iterator[str]:
    if good and copy is good[-1]:
        yield NEWEST
    if copy.pinned:
        yield "pinned"
    if not copy.good:
        yield f"does not count: {copy.problem}"
        return
    if copy.stamp in protect and copy is not good[-1]:
        yield "the last one that was made"
    if rivals := chronology.rivals(copy, good):
        others = f" and {len(rivals) - 1} more" if len(rivals) > 1 else ""
        yield f"not known whether it is older than {rivals[-1].stamp}{others}"
    elif copy is not good[-1]:
        newer = [other for other in good if chronology.supersedes(other, copy)]
        if not (apart := [other for other in newer if not _one_file(other, copy)]):
            yield "what is newer is the same file"
        elif not any(other.sound for other in apart):
            yield _SUSPECT


def _one_file(one: Copy, other: Copy) -> bool:
    """Whether two copies are the same file. Where files have no numbers, their names tell."""
    return one.file == other.file and one.file[1] != 0


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
    if must_stay(copies, protect=protect)[stamp] or stamp in wanted(copies):
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
            sidecar = sidecars.read_named(directory, final_name(stamp, "json"), stamp)
        except (CopyError, FileNotFoundError):
            return None
    return (
        _permit(directory, stamp, "its .ova was removed before")
        if catalogue.is_of(sidecar, uuid)
        else None
    )


def chosen(directory: Path, uuid: str, stamp: str, *, vm: str, last: bool) -> Permit:
    """The permit for all files of a copy that an operator wants removed.

    With `last` also of the last good one. `vm`: its name, for hints. Raises `CopyError` if it is
    not there, `IllegalMoveError` if it is pinned, another VM's, or the last good one, `NasError`.
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
    others = [other for other in found.good if other.stamp != stamp and not _one_file(other, copy)]
    if copy.good and not any(other.sound for other in others) and not last:
        raise IllegalMoveError(
            f"{stamp} is the last good copy that is not suspect"
            if others
            else f"{stamp} is the last good copy",
            hint=f"`vmbackup-admin verify {quoted(vm)}` first, or say --last"
            if others
            else "make another backup first, or say --last",
        )
    return _permit(directory, stamp, "an operator said so")


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
    sidecar = sidecars.read_named(target, final_name(stamp, "json"), stamp)
    if not present(there, ova):
        raise CopyError(f"{ova} is not at {target}")
    if ova in wanted:
        expected: dict[Suffix, SideFile] = {
            "ova": SideFile(sidecar.size, sidecar.sha256),
            **sidecar.files,
        }
        if digest != sidecar.sha256:
            raise CopyError(f"{target} has another file of that name, or a damaged one")
        if lost := missing(there, stamp, expected):
            raise CopyError(f"{target} has not all of the copy: {lost}")
    return Permit(source, stamp, wanted, f"it is in {target}")


def refuse_one_directory(source: Path, target: Path) -> None:
    """Raises `NasError` if both are the same directory under two names.

    What is at the one is not safe at the other. Raises OSError.
    """
    if same_directory(source, target):
        raise NasError(
            f"{source} and {target} are the same directory",
            hint="nas.archive_directory must be another place than the NAS directory",
        )


def _permit(directory: Path, stamp: str, reason: str) -> Permit:
    return Permit(
        directory, stamp, frozenset(final_name(stamp, suffix) for suffix in SUFFIXES), reason
    )
