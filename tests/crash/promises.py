"""What must hold at the moment of a crash, and what must hold when the next workers have run."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from shared.copies import catalogue
from shared.copies.catalogue import Copy
from shared.ova.check import check_ova
from shared.state.records import VmRecord
from shared.state.store import inspection
from shared.state.store.readable_view import render
from shared.state.store.snapshot import Snapshot, decode

_STATE_FILES = frozenset(
    {"gen", "history", "node", "reserve", "tmp", "vmtool-db-version", "vmtool-statedb"}
)
_KEPT = ("vmtool-statedb.adopted-", "vmtool-statedb.edited-")
_OLD = frozenset({"vmtool-statedb.1.0", "vmtool-db-version.1.0", "vmtool-dblock.1.0"})


class Seen(Protocol):
    """What is looked at: a NAS directory as it is on the server's own disk, and what still runs."""

    @property
    def nas(self) -> Path:
        """The directory that the hosts have mounted."""

    @property
    def state(self) -> Path:
        """The state database."""

    @property
    def archived(self) -> Path:
        """The archive directory."""

    @property
    def archive(self) -> str:
        """Its name, if it is in the NAS directory."""

    def head(self) -> Snapshot:
        """The newest generation, read without any code that could repair something."""

    def exports(self) -> Sequence[Any]:
        """The exports that run now."""


def copies(world: Seen) -> dict[str, tuple[Copy, ...]]:
    """The good copies by the name of their directory, wherever they are.

    In their place or in the archive.
    """
    found: dict[str, tuple[Copy, ...]] = {}
    for place in (world.nas, world.archived):
        for directory in place.iterdir() if place.is_dir() else ():
            if directory.is_dir() and not (
                place == world.nas and directory.name in ("vmstate", world.archive)
            ):
                found[directory.name] = (
                    found.get(directory.name, ()) + catalogue.read(directory, None).good
                )
    return found


def good_stamps(world: Seen) -> dict[str, set[str]]:
    """The stamps of the good copies, by directory."""
    return {directory: {copy.stamp for copy in found} for directory, found in copies(world).items()}


def broken_at_once(world: Seen, before: Mapping[str, set[str]], *, keep: int = 2) -> Iterator[str]:
    """What is wrong already now, with nothing recovered.

    Of the copies that were there before, the newest `keep` must be.
    """
    after = good_stamps(world)
    for directory, stamps in before.items():
        there = after.get(directory, set())
        if len(there) < min(keep, len(stamps)):
            yield f"{directory}: of the good copies {sorted(stamps)} only {sorted(there)} are left"
        newest = max(stamps, key=lambda stamp: int(stamp.rpartition("-")[2]), default=None)
        if newest and newest not in there:
            yield f"{directory}: the newest copy {newest} is gone; there are {sorted(there)}"


def view_of(world: Seen) -> bytes | None:
    """What is in `vmtool-statedb`; None if there is no such file."""
    try:
        return (world.state / "vmtool-statedb").read_bytes()
    except FileNotFoundError:
        return None


def half_a_view(world: Seen, before: bytes | None) -> Iterator[str]:
    """Readers find what was there before, or what one of the newest generations says.

    Never half of it.
    """
    found = view_of(world)
    migrating = found is None and (world.state / "vmtool-statedb.1.0").exists()
    if not world.state.exists():
        if before is not None and not set_aside(world):
            yield "the state database is gone, and nothing is set aside"
        return  # else the old one is whole under another name, and nobody reads half of a new one
    if found != before and not migrating:
        newest = sorted((world.state / "gen").iterdir())[-2:]
        if found not in {
            render(decode(path.read_bytes(), int(path.name)).contents) for path in newest
        }:
            yield f"vmtool-statedb is that of no generation: {found!r}"


def set_aside(world: Seen) -> list[Path]:
    """The databases that have another name now, because a new one was made of the copies."""
    return [path for path in world.nas.iterdir() if path.name.startswith("vmstate.aside-")]


def broken(
    world: Seen, states: Mapping[str, str], orphans: frozenset[str] = frozenset()
) -> Iterator[str]:
    """What is wrong when nobody works any more.

    `states` are those that the VMs must have, `orphans` directories that may be left.
    """
    yield from _database(world, states)
    yield from _litter(world, orphans)
    for directory, found in copies(world).items():
        for copy in found:
            yield from (
                f"{directory}: {problem}"
                for problem in examine(copy, superseded=copy is not found[-1])
            )
    if exports := world.exports():
        yield f"exports still run: {exports}"


def _database(world: Seen, states: Mapping[str, str]) -> Iterator[str]:
    for finding in inspection.inspect(world.state).findings:
        if (
            not finding.harmless
        ):  # such as an edit by hand, which is kept twice if the first time was interrupted
            yield f"database: {finding.what}"
    head = world.head()
    if (world.state / "vmtool-statedb").read_bytes() != render(head.contents):
        yield "vmtool-statedb is not what the head says"
    found = {key: str(record.status) for key, record in head.contents.vms.items()}
    if found != states:
        yield (
            f"states are {found} instead of {dict(states)}: "
            f"{[record.last_error for record in head.contents.vms.values()]}"
        )
    for key, record in head.contents.vms.items():
        yield from (f"{key}: {problem}" for problem in _record(world, record))
    if live := [
        identifier for identifier, row in head.contents.sessions.items() if row.state == "live"
    ]:
        yield f"sessions are still live: {live}"


def _record(world: Seen, record: VmRecord) -> Iterator[str]:
    for name in ("claim", "publishing", "moving", "power", "leftovers"):
        if getattr(record, name):
            yield f"{name} is still {getattr(record, name)}"
    if record.status in ("CLEAN", "ARCHIVED") and record.last_copy:
        stamps = {copy.stamp for copy in copies(world).get(record.directory, ())}
        if record.last_copy.stamp not in stamps:
            yield f"its last copy {record.last_copy.stamp} is not there, but {sorted(stamps)}"


def _litter(world: Seen, orphans: frozenset[str]) -> Iterator[str]:
    looks = {f".look-{node}" for node in world.head().contents.nodes}
    for folder in ("tmp", "node"):
        found = {path.name for path in (world.state / folder).iterdir()}
        if left := sorted(found - looks if folder == "node" else found):
            yield f"{folder}/ still has {left}"
    for name in sorted(path.name for path in world.state.iterdir()):
        if name not in _STATE_FILES | _OLD and not name.startswith(_KEPT):
            yield f"vmstate/ has {name}"
    known = (
        {record.directory for record in world.head().contents.vms.values()}
        | {"vmstate", "vmbackup.html", world.archive}
        | orphans
        | {path.name for path in set_aside(world)}
    )
    places = {world.nas: known, world.archived: known | {".vmbackup-archive"}}
    for place, names in places.items():
        for path in place.iterdir() if place.is_dir() else ():
            if path.name not in names:
                yield f"{place.name}/ has {path.name}"
            elif path.is_dir() and path not in (world.state, world.archived, *set_aside(world)):
                yield from _directory_litter(path)


def _directory_litter(directory: Path) -> Iterator[str]:
    found = catalogue.read(directory, None)
    for copy in found.copies:
        if not copy.good:
            yield f"{directory}: {copy.stamp} does not count: {copy.problem}"
    if found.partials or found.foreign or found.links:
        yield (
            f"{directory} has "
            f"{[*(partial.name for partial in found.partials), *found.foreign, *found.links]}"
        )
    if not any(directory.iterdir()):
        yield f"{directory} is empty"


def examine(copy: Copy, *, superseded: bool = False) -> Iterator[str]:
    """What is wrong with a copy that counts.

    Every byte read, its digest compared, its checksum line as `sha256sum -c` would.

    One whose removal was interrupted at once, since a newer one has `superseded` it, has no
    checksum line any more.
    """
    ova = copy.directory / f"{copy.stamp}.ova"
    digest = hashlib.sha256(ova.read_bytes()).hexdigest()
    if copy.sidecar is None or digest != copy.sidecar.sha256:
        yield f"{ova.name}: its digest is {digest}"
    if check_ova(copy.directory, ova.name).sha256 != digest:
        yield f"{ova.name}: two digests"
    if superseded and not (copy.directory / f"{copy.stamp}.sha256").exists():
        return
    lines = (copy.directory / f"{copy.stamp}.sha256").read_text(encoding="ascii").splitlines()
    for line in lines:
        told, _, name = line.partition("  ")
        if hashlib.sha256((copy.directory / name).read_bytes()).hexdigest() != told:
            yield f"{name}: its checksum line is wrong"
    if not any(line.endswith(f"  {ova.name}") for line in lines):
        yield f"{ova.name} has no checksum line"


def lost(before: Mapping[str, set[str]], world: Seen, *, keep: int = 2) -> Sequence[str]:
    """Older good copies that retention had to keep and that are not there any more, when all has
    settled.
    """
    return list(broken_at_once(world, before, keep=keep))
