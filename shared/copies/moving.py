"""Move all copies of a VM to another directory: what archive and activate do.

On the same file system, or to another one. For each copy the sidecar is written at the target
first, then the side files get a second name there (or are copied), then the `.ova` arrives under
its final name in one rename, and only then the source is removed. So at every moment, and after a
crash at any point, each copy is whole in at least one of the two places, and the same call again
goes on where the other ended: what is to be done next is read from both directories.

A process that was displaced and wakes up late can do no more than repeat a step that was right when
it was chosen: what is removed at the source has been verified at the target, and `check` asks
before each step whether the claim still stands.
"""

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from shared.copies import catalogue, chronology, sidecar_files, source_removal, transfer
from shared.copies import sidecar as sidecars
from shared.copies.copy_files import NasFiles, refuse_one_directory
from shared.copies.copying import Route
from shared.copies.names import SIDES, final_name, parse_final
from shared.copies.partials import remove_partials_of_moves
from shared.host.errors import CopyError
from shared.nas.nas_errors import reported
from shared.nas.reading import Entry, look, look_twice, present, read_file

#: More steps than a copy can need: whoever takes them runs in a circle.
_STEPS_LIMIT: Final = 24


@dataclass(frozen=True, slots=True)
class UnmovedCopy:
    """A copy that stayed where it is, and why. Nothing of it was changed or lost."""

    stamp: str
    reason: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The result: `stamps` are at the target now, brought by this call or an earlier one."""

    stamps: tuple[str, ...]
    problems: tuple[UnmovedCopy, ...]


def move_copies(files: NasFiles, route: Route) -> Moved:
    """Move every copy from `route.source` to `route.target`, oldest first.

    Files of no copy stay; a source that is empty then is removed. May be called again after a crash
    at any point, and ends the same. A copy that cannot be moved (no sidecar, damaged, another VM's,
    another one of the same stamp at the target) is reported in the result and left alone; the
    others go on. Raises `NasError` if both are the same directory, before anything is touched, if
    the NAS refuses, or if the target has no room.
    """
    problems: list[UnmovedCopy] = []
    with reported(f"move copies from {route.source} to {route.target}"):
        route.check()
        refuse_one_directory(route.source, route.target)
        stamps = _to_move(route)
        if stamps:
            files.make_directory(route.target)
            remove_partials_of_moves(files, route)
        for stamp in stamps:
            try:
                _move_copy(files, route, stamp)
            except CopyError as error:
                problems.append(UnmovedCopy(stamp, error.message))
        if not look(route.source):
            files.remove_directory(route.source)
        there = [
            copy
            for copy in catalogue.read(route.target, route.uuid).copies
            if copy.ours and copy.present and copy.sidecar
        ]
    return Moved(tuple(copy.stamp for copy in there), tuple(problems))


def _to_move(route: Route) -> list[str]:
    """The stamps at the source, oldest first, also those of which only small files are left."""
    stamps = {found[0] for name in look_twice(route.source) if (found := parse_final(name))}
    copies = catalogue.read(route.source, route.uuid).copies
    rest = stamps - {copy.stamp for copy in copies}
    return [
        copy.stamp
        for copy in chronology.oldest_first(
            (*copies, *(catalogue.Copy(route.source, stamp, None, 0, "") for stamp in rest))
        )
    ]


def _move_copy(files: NasFiles, route: Route, stamp: str) -> None:
    """Look at both directories and do the next step, until there is none.

    A step that meets a stale handle was overtaken by whoever displaced us, or by the server's
    restart: another look tells.
    """
    stale: OSError | None = None
    for _ in range(_STEPS_LIMIT):
        here, there = look_twice(route.source), look_twice(route.target)
        step = _next_step(route, stamp, here, there)
        if step is None:
            return
        route.check()
        try:
            step(files, route, stamp)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            stale = error
    raise stale or CopyError("the NAS does not show what was done there")


Step = Callable[[NasFiles, Route, str], None]


def _next_step(
    route: Route, stamp: str, here: Mapping[str, Entry], there: Mapping[str, Entry]
) -> Step | None:
    ova, json, line, index = (
        final_name(stamp, suffix) for suffix in ("ova", "json", "sha256", "index")
    )
    side_names = [final_name(stamp, suffix) for suffix in SIDES]
    for name in (ova, json, line, index, *side_names):
        if any(name in side and not side[name].is_file for side in (here, there)):
            raise CopyError(f"{name} is no ordinary file")
    if json in here:
        _refuse_another_vm(route, stamp)
    if json in here and (
        json not in there or (ova in here and ova not in there and not _same(route, json))
    ):
        return (
            transfer.write_sidecar if ova in here or ova in there else _leave("its .ova is missing")
        )
    if ova in here and json not in there:
        return _leave("it has no sidecar")
    if (ova in here) != (ova in there) and any(
        name in here and name not in there
        for name in (*side_names, *_index_needed(route, stamp, there))
    ):
        return transfer.bring_side_files
    if ova in here:
        return source_removal.remove_ova if ova in there else transfer.bring_ova
    left = present(here, final_name(stamp, "png")) or any(
        name in here for name in (json, line, index, *side_names)
    )
    return source_removal.remove_side_files if ova in there and left else None


def _index_needed(route: Route, stamp: str, there: Mapping[str, Entry]) -> tuple[str, ...]:
    """The name of the copy's index, if it is needed to read the copy, which is at the target."""
    if final_name(stamp, "json") not in there:
        return ()
    try:
        sidecar = sidecar_files.read_named(route.target, final_name(stamp, "json"), stamp)
    except FileNotFoundError:
        return ()  # the next look tells
    return (final_name(stamp, "index"),) if "index" in sidecar.needed_files else ()


def _refuse_another_vm(route: Route, stamp: str) -> None:
    try:
        sidecar = sidecar_files.read_named(route.source, final_name(stamp, "json"), stamp)
    except FileNotFoundError:
        return  # it has just been moved: the next look tells
    if not catalogue.is_of(sidecar, route.uuid):
        raise CopyError(f"it is a copy of another VM ({sidecar.uuid}, called {sidecar.vm})")


def _leave(reason: str) -> Step:
    raise CopyError(reason)


def _same(route: Route, name: str) -> bool:
    here, there = (
        read_file(directory / name, sidecars.LIMIT_BYTES, follow=False)
        for directory in (route.source, route.target)
    )
    return here == there
