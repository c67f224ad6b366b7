"""What is in the directory of a VM: copies that count, what is no copy (yet), and what does not belong there.

A copy counts when its `.ova`, its sidecar and the side files that this names are there under their final names, with the sizes that
it says, and no verification found it damaged. Order is by claim number: clocks of hosts may disagree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.copies import sidecar as sidecars
from shared.copies.files import Entry, look, present
from shared.copies.names import Partial, Suffix, final_name, parse_final, parse_partial, parse_stamp
from shared.copies.reporting import reported
from shared.copies.sidecar import Sidecar, SideFile
from shared.copies.sides import missing
from shared.errors import CopyError


@dataclass(frozen=True, slots=True)
class Copy:
    """One stamp of a VM's directory. `problem` says why it does not count; it is empty for a good copy.

    `present` is whether its `.ova` is there at all: without, it is what an interrupted removal has left.
    """

    directory: Path
    stamp: str
    sidecar: Sidecar | None
    size: int
    problem: str
    present: bool = True

    @property
    def claim(self) -> int:
        """The number of the claim under which it was made: the order of copies."""
        return parse_stamp(self.stamp).claim

    @property
    def good(self) -> bool:
        """Whether it counts."""
        return not self.problem

    @property
    def pinned(self) -> bool:
        """Whether an operator has exempted it from retention."""
        return self.sidecar is not None and bool(self.sidecar.pinned)


@dataclass(frozen=True, slots=True)
class PartialFile:
    """A file that is being written, or that somebody who died has left."""

    name: str
    partial: Partial
    size: int


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that is in one directory. `foreign` are names that are none of ours; `links` are symbolic links: never followed."""

    directory: Path
    copies: tuple[Copy, ...] = ()
    partials: tuple[PartialFile, ...] = ()
    foreign: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def good(self) -> tuple[Copy, ...]:
        """The copies that count, oldest first."""
        return tuple(copy for copy in self.copies if copy.good)

    @property
    def latest_good(self) -> Copy | None:
        """The newest copy that counts."""
        return self.good[-1] if self.good else None

    def find(self, stamp: str) -> Copy | None:
        """The copy of that stamp, good or not."""
        return next((copy for copy in self.copies if copy.stamp == stamp), None)


def read(directory: Path) -> Catalogue:
    """Looks at the directory of a VM; one that is not there is empty. Reads the sidecars, not the copies. Raises `NasError`."""
    with reported(f"look at the copies in {directory}"):
        return _read(directory, look(directory))


def _read(directory: Path, entries: Mapping[str, Entry]) -> Catalogue:
    stamps = sorted({found[0] for name in entries if (found := parse_final(name))}, key=lambda stamp: (parse_stamp(stamp).claim, stamp))
    partials = [
        PartialFile(name, partial, entry.size) for name, entry in entries.items() if entry.is_file and (partial := parse_partial(name))
    ]
    ours = {partial.name for partial in partials} | {name for name, entry in entries.items() if entry.is_file and parse_final(name)}
    return Catalogue(
        directory,
        copies=tuple(copy for stamp in stamps if (copy := _copy(directory, stamp, entries))),
        partials=tuple(sorted(partials, key=lambda partial: (partial.partial.claim, partial.name))),
        foreign=tuple(sorted(name for name, entry in entries.items() if name not in ours and not entry.is_link)),
        links=tuple(sorted(name for name, entry in entries.items() if entry.is_link)),
    )


def _copy(directory: Path, stamp: str, entries: Mapping[str, Entry]) -> Copy | None:
    parts: set[Suffix] = {suffix for suffix in ("ova", "json") if present(entries, final_name(stamp, suffix))}
    size = entries[final_name(stamp, "ova")].size if "ova" in parts else 0
    if not parts:
        return None
    if "json" not in parts:
        return Copy(directory, stamp, None, size, "it has no sidecar")
    try:
        sidecar = sidecars.read_named(directory, final_name(stamp, "json"), stamp)
    except FileNotFoundError:
        return Copy(directory, stamp, None, size, "it is being removed", "ova" in parts)
    except CopyError as error:
        return Copy(directory, stamp, None, size, error.message, "ova" in parts)
    return Copy(directory, stamp, sidecar, size, _problem(entries, sidecar), "ova" in parts)


def _problem(entries: Mapping[str, Entry], sidecar: Sidecar) -> str:
    expected: dict[Suffix, SideFile] = {"ova": SideFile(sidecar.size, sidecar.sha256), **sidecar.files}
    if lost := missing(entries, sidecar.stamp, expected):
        return lost
    return f"verification found: {sidecar.damage}" if sidecar.damage else ""
