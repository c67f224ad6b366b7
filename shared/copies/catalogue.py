"""What is in the directory of a VM: copies, partial files, and what does not belong there.

A copy counts when its `.ova`, its sidecar and the files that this names are there under their final
names, with the sizes that it says, no verification found it damaged, VirtualBox would import
it as far as the sidecar knows, and the sidecar says that it is a copy of this very VM, by its UUID:
another VM may have had the same name, and the same directory, before. Which copy is the newer one
is said by `shared.copies.chronology`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from shared.copies import chronology, sidecar_files
from shared.copies.names import (
    Partial,
    final_name,
    looks_like_a_copy,
    parse_final,
    parse_partial,
    parse_stamp,
)
from shared.copies.side_files import missing_of_copy
from shared.copies.sidecar import Sidecar
from shared.host.errors import CopyError
from shared.nas.nas_errors import reported
from shared.nas.reading import Entry, look, present
from shared.state.hold import Hold
from shared.state.numbers import plausible


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy in a VM's directory, good or not: all files of one stamp.

    `problem` says why it does not count; it is empty for a good copy. `present` is whether its
    `.ova` is there at all: without, it is what an interrupted removal has left. `created` is when
    that was written (nanoseconds of the NAS's clock), `file` its device and inode. `ours` is
    whether it may be a copy of this VM: all but those whose sidecar has another UUID. `screenshot`
    is whether that of its last rehearsal is beside it.
    """

    directory: Path
    stamp: str
    sidecar: Sidecar | None
    size: int
    problem: str
    present: bool = True
    created: int = 0
    file: tuple[int, int] = (0, 0)
    ours: bool = True
    screenshot: bool = False

    @property
    def claim(self) -> int:
        """The number of the claim under which it was made."""
        return parse_stamp(self.stamp).claim

    @property
    def moment(self) -> datetime:
        """When it was begun, by its host's clock."""
        return parse_stamp(self.stamp).moment

    @property
    def good(self) -> bool:
        """Whether it counts."""
        return not self.problem

    @property
    def refused(self) -> bool:
        """Whether nothing is wrong with it but that VirtualBox would not import it.

        Its disks are whole: it does not count, and it is not damaged.
        """
        return self.sidecar is not None and self.problem == _refusal(self.sidecar) != ""

    @property
    def sound(self) -> bool:
        """Whether it counts and is not suspect."""
        return self.good and not self.suspect

    @property
    def read_in_full(self) -> bool:
        """Whether it is sound, and every byte of it was read and was right."""
        return self.sound and self.sidecar is not None and self.sidecar.read_in_full

    @property
    def suspect(self) -> bool:
        """Whether it took blocks over from a damaged copy, and was not read in full since."""
        return self.sidecar is not None and bool(self.sidecar.suspect)

    @property
    def pinned(self) -> bool:
        """Whether an operator has exempted it from retention."""
        return self.sidecar is not None and bool(self.sidecar.pinned)

    @property
    def holds(self) -> tuple[Hold, ...]:
        """The VMs that run from it, as far as its sidecar tells."""
        return self.sidecar.holds if self.sidecar is not None else ()


@dataclass(frozen=True, slots=True)
class PartialFile:
    """A file that is being written, or that somebody who died has left."""

    name: str
    partial: Partial
    size: int


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that is in one directory, the copies oldest first.

    `foreign` are names that are none of ours; `links` are symbolic links: never followed.
    """

    directory: Path
    copies: tuple[Copy, ...] = ()
    partials: tuple[PartialFile, ...] = ()
    foreign: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def good(self) -> tuple[Copy, ...]:
        """The copies that count, oldest first."""
        return tuple(chronology.oldest_first(copy for copy in self.copies if copy.good))

    @property
    def latest_good(self) -> Copy | None:
        """The newest copy that counts."""
        return self.good[-1] if self.good else None

    @property
    def order_unknown(self) -> tuple[str, ...]:
        """The stamps of good copies of which it is disputed which is newer, oldest first."""
        return chronology.unknown(self.good)

    @property
    def strange(self) -> tuple[str, ...]:
        """Foreign names that are built like a copy's, for people to look at.

        Their number is out of bounds, or they have no sidecar.
        """
        return tuple(name for name in self.foreign if looks_like_a_copy(name))

    def find(self, stamp: str) -> Copy | None:
        """The copy of that stamp, good or not."""
        return next((copy for copy in self.copies if copy.stamp == stamp), None)

    def of(self, uuid: str | None) -> "Catalogue":
        """The same for the VM `uuid`: copies of all others are not `ours`, and do not count."""
        copies = chronology.oldest_first(_of(copy, uuid) for copy in self.copies)
        return replace(self, copies=tuple(copies))


def read(directory: Path, uuid: str | None) -> Catalogue:
    """Read what is in the directory of the VM `uuid`; one that is not there is empty.

    Reads the sidecars, not the copies. With None copies of all VMs count: for showing a directory
    without asking whose it is, never for deciding what is removed. Raises `NasError`.
    """
    with reported(f"look at the copies in {directory}"):
        return _read(directory, look(directory)).of(uuid)


def is_of(sidecar: Sidecar, uuid: str | None) -> bool:
    """Whether a sidecar describes a copy of the VM `uuid` (None: any)."""
    return uuid is None or sidecar.uuid.casefold() == uuid.casefold()


def _of(copy: Copy, uuid: str | None) -> Copy:
    if copy.sidecar is None or is_of(copy.sidecar, uuid):
        return copy
    problem = f"it is a copy of another VM ({copy.sidecar.uuid}, called {copy.sidecar.vm})"
    return replace(copy, ours=False, problem=problem)


def _read(directory: Path, entries: Mapping[str, Entry]) -> Catalogue:
    names = [name for name in entries if present(entries, name)]
    stamps = sorted(
        {found[0] for name in names if (found := parse_final(name)) and found[1] in ("ova", "json")}
    )
    partials = [
        PartialFile(name, partial, entries[name].size)
        for name in names
        if (partial := parse_partial(name))
    ]
    ours = {partial.name for partial in partials} | {
        name for name in names if (found := parse_final(name)) and found[0] in stamps
    }
    copies = [_copy(directory, stamp, entries) for stamp in stamps]
    return Catalogue(
        directory,
        copies=tuple(copies),
        partials=tuple(sorted(partials, key=lambda partial: (partial.partial.claim, partial.name))),
        foreign=tuple(
            sorted(
                name for name, entry in entries.items() if name not in ours and not entry.is_link
            )
        ),
        links=tuple(sorted(name for name, entry in entries.items() if entry.is_link)),
    )


def _copy(directory: Path, stamp: str, entries: Mapping[str, Entry]) -> Copy:
    ova = entries.get(final_name(stamp, "ova"))
    ova = ova if ova is not None and ova.is_file else None
    seen = Copy(
        directory, stamp, None, ova.size if ova else 0, "it has no sidecar", ova is not None
    )
    if ova is not None:
        seen = replace(seen, created=ova.modified, file=(ova.device, ova.inode))
    if not present(entries, final_name(stamp, "json")):
        return seen
    try:
        sidecar = sidecar_files.read_named(directory, final_name(stamp, "json"), stamp)
    except FileNotFoundError:
        return replace(seen, problem="it is being removed")
    except CopyError as error:
        return replace(seen, problem=error.message)
    return replace(
        seen,
        sidecar=sidecar,
        problem=_problem(entries, sidecar),
        screenshot=_has_screenshot(entries, sidecar),
    )


def _has_screenshot(entries: Mapping[str, Entry], sidecar: Sidecar) -> bool:
    name, shown = final_name(sidecar.stamp, "png"), sidecar.shown
    return shown is not None and present(entries, name) and entries[name].size == shown.size


def _problem(entries: Mapping[str, Entry], sidecar: Sidecar) -> str:
    if lost := missing_of_copy(entries, sidecar):
        return lost
    if not plausible(parse_stamp(sidecar.stamp).claim):
        return "the number in its name is out of bounds"
    return f"verification found: {sidecar.damage}" if sidecar.damage else _refusal(sidecar)


def _refusal(sidecar: Sidecar) -> str:
    if not sidecar.refused:
        return ""
    return f"VirtualBox would not import it, although its disks are whole: {sidecar.refused}"
