"""Archive and activate.

All copies of a VM go from one directory to the other, on the same file system or across.

For each copy the sidecar is written at the target first, then the side files get a second name
there (or are copied), then the `.ova` arrives under its final name in one rename, and only then the
source is removed. So at every moment, and after a crash at any point, each copy is whole in at
least one of the two places, and the same call again goes on where the other ended: what is to be
done next is read from both directories.

A process that was displaced and wakes up late can do no more than repeat a step that was right when
it was chosen: what is removed at the source has been verified at the target, and `check` asks
before each step whether the claim still stands.
"""

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.copies import catalogue, chronology, permits
from shared.copies import sidecar as sidecars
from shared.copies.copying import Transport, copy_file
from shared.copies.files import NasFiles, write_file
from shared.copies.names import SIDES, Suffix, final_name, parse_final, parse_partial, partial_name
from shared.copies.sidecar import Sidecar, SideFile
from shared.copies.space import check_room
from shared.host.errors import CopyError
from shared.nas.errors import reported
from shared.nas.reading import Entry, look, look_twice, present, read_file
from shared.ova.check import Progress, sha256_of

#: More steps than a copy can need: whoever takes them runs in a circle.
_STEPS_LIMIT: Final = 24
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


@dataclass(frozen=True, slots=True)
class Problem:
    """A copy that stayed where it is, and why. Nothing of it was changed or lost."""

    stamp: str
    reason: str


@dataclass(frozen=True, slots=True)
class Moved:
    """What a call did: `stamps` are at the target now, whether this call or an earlier one brought them there."""

    stamps: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """From where to where, copies of which VM (by its UUID), under which claim (its number names the partial files).

    `reserve` is the room that must stay free at the target; `live` are the claims of others, whose
    partial files there are not touched. `check` is called before every step and with every
    megabyte, so it should look at no more than what the process knows; it raises when the claim is
    lost, or when the move is to stop.
    """

    source: Path
    target: Path
    uuid: str
    claim: int
    reserve: int = 0
    live: frozenset[int] = frozenset()
    check: Callable[[], None] = lambda: None
    progress: Progress = lambda _done, _total: None


def move_copies(files: NasFiles, route: Route) -> Moved:
    """Moves every copy from `route.source` to `route.target`, oldest first.

    Files that are no copy's stay, and an empty directory goes.

    May be called again after a crash at any point, and ends the same. A copy that cannot be moved
    (no sidecar, damaged, another VM's, another one of the same stamp at the target) is reported in
    the result and left alone; the others go on. Raises `NasError` if both are the same directory,
    before anything is touched, if the NAS refuses, or if the target has no room.
    """
    problems: list[Problem] = []
    with reported(f"move copies from {route.source} to {route.target}"):
        route.check()
        permits.refuse_one_directory(route.source, route.target)
        stamps = _to_move(route)
        if stamps:
            files.make_directory(route.target)
            _remove_stale_partials(files, route)
        for stamp in stamps:
            try:
                _move_copy(files, route, stamp)
            except CopyError as error:
                problems.append(Problem(stamp, error.message))
        if not look(route.source):
            files.remove_directory(route.source)
        there = [
            copy
            for copy in catalogue.read(route.target, route.uuid).copies
            if copy.ours and copy.present and copy.sidecar
        ]
    return Moved(tuple(copy.stamp for copy in there), tuple(problems))


def _to_move(route: Route) -> list[str]:
    """The stamps of all copies at the source, oldest first, and of those of which only small files are left there."""
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
    """Looks at both places and does the next step, until there is none.

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
    sides = [final_name(stamp, suffix) for suffix in SIDES]
    for name in (ova, json, line, index, *sides):
        if any(name in side and not side[name].is_file for side in (here, there)):
            raise CopyError(f"{name} is no ordinary file")
    if json in here:
        _refuse_another_vm(route, stamp)
    if json in here and (
        json not in there or (ova in here and ova not in there and not _same(route, json))
    ):
        return _write_sidecar if ova in here or ova in there else _leave("its .ova is missing")
    if ova in here and json not in there:
        return _leave("it has no sidecar")
    if (ova in here) != (ova in there) and any(
        name in here and name not in there for name in sides
    ):
        return _bring_sides
    if ova in here:
        return _remove_source if ova in there else _transfer
    return (
        _remove_sides
        if ova in there and any(name in here for name in (json, line, index, *sides))
        else None
    )


def _refuse_another_vm(route: Route, stamp: str) -> None:
    try:
        sidecar = sidecars.read_named(route.source, final_name(stamp, "json"), stamp)
    except FileNotFoundError:
        return  # it has just been moved: the next look tells
    if not catalogue.is_of(sidecar, route.uuid):
        raise CopyError(f"it is a copy of another VM ({sidecar.uuid}, called {sidecar.vm})")


def _leave(reason: str) -> Step:
    raise CopyError(reason)


def _write_sidecar(files: NasFiles, route: Route, stamp: str) -> None:
    """Brings sidecar and checksum line to the target.

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


def _bring_sides(files: NasFiles, route: Route, stamp: str) -> None:
    """Brings the side files to the target and leaves them at the source, where the copy needs them until its `.ova` goes."""
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


def _transfer(files: NasFiles, route: Route, stamp: str) -> None:
    """Brings the `.ova` to the target.

    Renamed, or copied and verified under a partial name where it is another file system.
    """
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
    """Copies the `.ova`, and only then removes the source."""
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
        _remove_verified(
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


def _remove_source(files: NasFiles, route: Route, stamp: str) -> None:
    """Both places have the `.ova`, from an earlier call.

    That at the source goes if both are what the sidecar says, read again here.
    """
    name = final_name(stamp, "ova")
    sidecar = sidecars.read_named(route.target, final_name(stamp, "json"), stamp)
    before = look(route.source).get(name)
    digest = sha256_of(route.target, name, progress=route.progress)
    if digest != sidecar.sha256:
        raise CopyError(f"{route.target} has another file of that name, or a damaged one")
    if sha256_of(route.source, name) != sidecar.sha256:
        raise CopyError(f"{route.source} has another file of that name, or a damaged one")
    _remove_verified(files, route, stamp, before, digest)


def _remove_verified(
    files: NasFiles, route: Route, stamp: str, before: Entry | None, digest: str
) -> None:
    """Removes the source if it is still the file that was verified, not one that others brought back since they displaced us.

    `digest` is that of what was read at the target.
    """
    name = final_name(stamp, "ova")
    route.check()
    if before and look(route.source).get(name) == before:
        files.remove_published(
            permits.arrived(route.source, route.target, stamp, [name], digest=digest), name
        )
        files.sync_directory(route.source)


def _remove_sides(files: NasFiles, route: Route, stamp: str) -> None:
    """The `.ova` has arrived.

    What lies beside it at the source goes, the side files only if the target has them as they
    should be.
    """
    expected = sidecars.read_named(route.target, final_name(stamp, "json"), stamp).files
    here = look(route.source)
    for suffix in SIDES:
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
    rest = [final_name(stamp, "index"), final_name(stamp, "sha256"), final_name(stamp, "json")]
    permit = permits.arrived(route.source, route.target, stamp, rest)
    for name in rest:  # an index is of no use elsewhere: the next copy there is sent whole
        files.remove_published(permit, name)
    files.sync_directory(route.source)


def _one_file(route: Route, name: str) -> bool:
    """Whether both names lead to the same file: there is nothing to compare then."""
    return os.path.samestat(os.lstat(route.source / name), os.lstat(route.target / name))


def _remove_stale_partials(files: NasFiles, route: Route) -> None:
    """What earlier, interrupted moves (claims up to ours) left at the target.

    Nobody else writes there while the VM is claimed.
    """
    for name, entry in look(route.target).items():
        partial = parse_partial(name)
        if (
            partial
            and entry.is_file
            and partial.claim <= route.claim
            and partial.claim not in route.live
        ):
            files.remove(route.target, name)


def _same(route: Route, name: str) -> bool:
    here, there = (
        read_file(directory / name, sidecars.LIMIT_BYTES, follow=False)
        for directory in (route.source, route.target)
    )
    return here == there
