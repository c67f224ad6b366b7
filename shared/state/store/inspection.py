"""Looking at every generation, also at damaged ones.

Reading takes no lock and relies on no version file: whether generations are files or directories is
seen, not believed.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.host.errors import DatabaseDamagedError, DatabaseVersionError, NoDatabaseError
from shared.nas.errors import nas_error
from shared.nas.reading import list_fresh, read_file
from shared.state import formats
from shared.state.states import State
from shared.state.store import version
from shared.state.store.files import generation_name, generation_numbers
from shared.state.store.protocol import NO_PREVIOUS
from shared.state.store.snapshot import Snapshot, decode
from shared.state.store.view import parse, render

if TYPE_CHECKING:
    from shared.state.records import VmRecord

#: How many generations below a damaged one are tried for something to show.
_TRIES: Final = 16
#: How many generations may have been committed between an edit of the view and its discovery: it is
#: found by the next commit.
_AROUND: Final = 4
_EDITED: Final = re.compile(r"vmtool-statedb\.edited-(\d{1,18})-[0-9a-z-]+")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with the database, and what to do about it.

    `harmless`: nothing is at risk, workers go on.
    """

    what: str
    hint: str
    harmless: bool = False


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a walk over all generations found.

    `newest` is the newest number present, `head` the newest generation that can be used.
    """

    generations: int
    oldest: int
    newest: int
    head: Snapshot | None
    findings: tuple[Finding, ...]


def numbers(root: Path) -> list[int]:
    """The numbers in `gen/`, oldest first. Raises `NoDatabaseError` or `NasError`."""
    try:
        return sorted(_numbers(root / "gen"))
    except (FileNotFoundError, NotADirectoryError):
        raise NoDatabaseError(
            f"there is no state database in {root}", hint="vmbackup-admin init makes a new one"
        ) from None
    except OSError as error:
        raise nas_error(error, f"use the state database in {root}") from error


def historic_numbers(root: Path) -> Iterator[int]:
    """The numbers in `history/`, newest first. A directory that cannot be read is passed over."""
    for bucket in reversed(_buckets(root)):
        yield from sorted(_numbers(root / "history" / bucket, missing_ok=True), reverse=True)


def oldest_number(root: Path) -> int:
    """The oldest number that is kept, in the history or in `gen/`; 0 if there is none."""
    for bucket in _buckets(root):
        if found := _numbers(root / "history" / bucket, missing_ok=True):
            return min(found)
    return min(numbers(root), default=0)


def read_number(root: Path, number: int) -> Snapshot | None:
    """Generation `number` from `gen/` or the history; None if it is in neither.

    Raises `DatabaseDamagedError`, `NasError`.
    """
    name = generation_name(number)
    for directory in (root / "gen", root / "history" / f"{number // 1000:07d}"):
        try:
            path = directory / name
            data = read_file(path / "snapshot" if path.is_dir() else path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise nas_error(error, f"use the state database in {root}") from error
        return decode(data, number)
    return None


def newest_readable(root: Path) -> Snapshot:
    """The newest generation that can be read, for showing something while the newest one is damaged. Raises `DatabaseDamagedError`."""
    for number in list(reversed(numbers(root)))[:_TRIES]:
        with contextlib.suppress(DatabaseDamagedError):
            snapshot = read_number(root, number)
            if snapshot is not None:
                return snapshot
    raise DatabaseDamagedError(
        f"none of the newest {_TRIES} generations in {root} can be read",
        hint=(
            "restore the directory vmstate from a backup of the NAS; the copies of the VMs are "
            "not touched by this"
        ),
    )


def inspect(
    root: Path,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    history: bool = True,
) -> Inspection:
    """Reads every generation (without `history` the newer ones).

    Checksums, the chain, the view, the version file. Changes nothing.
    """
    current = numbers(root)
    everything = sorted({*(historic_numbers(root) if history else ()), *current})
    findings: list[Finding] = []
    before: Snapshot | None = None
    for position, number in enumerate(everything):
        progress(position, len(everything))
        before = _examine(root, number, before, newest=everything[-1], findings=findings)
    head = before
    if not current:
        findings.append(
            Finding("gen/ has no generation", "restore vmstate from a backup of the NAS")
        )
    elif head is not None and head.generation == current[-1]:
        findings += _examine_view(root, head)
    findings += _examine_version(root, head)
    newest = everything[-1] if everything else 0
    return Inspection(
        len(everything), everything[0] if everything else 0, newest, head, tuple(findings)
    )


def _examine(
    root: Path, number: int, before: Snapshot | None, *, newest: int, findings: list[Finding]
) -> Snapshot | None:
    """Checks one generation against the one before it; returns the last good one."""
    aside = (
        f"vmbackup-admin statedb check --set-aside {number}"
        if number == newest
        else "older ones serve the log only: nothing needs to be done"
    )
    try:
        snapshot = read_number(root, number)
    except (DatabaseDamagedError, DatabaseVersionError) as error:
        hint = aside if isinstance(error, DatabaseDamagedError) else error.hint
        findings.append(Finding(error.message, hint))
        return before
    if snapshot is None:  # moved to the history or removed since it was listed
        return before
    if before is None:
        if number == 1 and snapshot.header.previous != NO_PREVIOUS:
            findings.append(Finding("generation 1 claims to follow another one", aside))
    elif before.generation + 1 == number and not follows(snapshot, before):
        findings.append(
            Finding(
                f"generation {number} does not follow from generation {before.generation}", aside
            )
        )
        return before if number == newest else snapshot
    elif before.generation + 1 < number and _absent(root, before.generation + 1):
        findings.append(
            Finding(
                f"generations {before.generation + 1} to {number - 1} are missing",
                "the log has a gap there; nothing else depends on them",
            )
        )
    return snapshot


def follows(snapshot: Snapshot, before: Snapshot) -> bool:
    """Whether `snapshot` is what was committed on `before`."""
    return (
        snapshot.header.previous == before.checksum
        and snapshot.header.repository == before.header.repository
    )


def _absent(root: Path, number: int) -> bool:
    try:
        return read_number(root, number) is None
    except (DatabaseDamagedError, DatabaseVersionError):
        return False


def _examine_view(root: Path, head: Snapshot) -> Iterator[Finding]:
    try:
        same = read_file(root / "vmtool-statedb") == render(head.contents)
    except OSError:
        same = False
    if not same:
        yield Finding(
            "vmtool-statedb is not what the newest generation says",
            "the next worker repairs it; an edit by hand is kept beside it",
            harmless=True,
        )
    edits = edited_views(root)
    if edits:
        yield Finding(
            f"vmtool-statedb was edited by hand: {', '.join(edits)}",
            "vmbackup-admin statedb adopt, or delete the file",
            harmless=True,
        )


def _examine_version(root: Path, head: Snapshot | None) -> Iterator[Finding]:
    rebuild = "vmbackup-admin statedb check --rebuild-version"
    try:
        settings = version.parse(read_file(root / "vmtool-db-version"))
    except OSError as error:
        yield Finding(f"vmtool-db-version cannot be read: {error.strerror or error}", rebuild)
    except (DatabaseDamagedError, DatabaseVersionError) as error:
        yield Finding(
            error.message, rebuild if isinstance(error, DatabaseDamagedError) else error.hint
        )
    else:
        if head is not None and settings.repository != head.header.repository:
            yield Finding(
                "vmtool-db-version names another repository than the generations", rebuild
            )
        yield from _examine_formats(
            settings.database_version,
            head.contents.format if head is not None else settings.database_version,
        )


def _examine_formats(file: str, generation: str) -> Iterator[Finding]:
    newer = max(file, generation, key=formats.major)
    if formats.is_newer(newer):
        error = formats.too_new(newer)
        yield Finding(f"{error.message}: what is found may be incomplete", error.hint)
    elif file != generation:
        yield Finding(
            (
                f"the newest generation is of version {generation}, vmtool-db-version says {file}: "
                f"an upgrade did not end"
            ),
            "`vmbackup-admin statedb upgrade` ends it; the generation counts",
            harmless=True,
        )


def edited_views(root: Path) -> list[str]:
    """The files that keep what somebody wrote into `vmtool-statedb`, oldest first."""
    found = [(int(match[1]), name) for name in _names(root) if (match := _EDITED.fullmatch(name))]
    return [name for _, name in sorted(found)]


def edits(root: Path, name: str) -> tuple[Mapping[str, State], Mapping[str, State]]:
    """What somebody changed by editing `vmtool-statedb`, from the file that keeps the edit.

    And its lines that may only be old.

    Others may have committed between the edit and its discovery. A line counts as changed if it
    says what none of the generations around that moment said; a line that differs from the newest
    of them only is as likely to be what the editor found there. Raises `DatabaseDamagedError` for
    lines that are none, `NasError`.
    """
    try:
        edited = parse(read_file(root / name))
    except OSError as error:
        raise nas_error(error, f"use the state database in {root}") from error
    match = _EDITED.fullmatch(name)
    newest = int(match[1]) if match else 0
    around: list[Mapping[str, VmRecord]] = []
    for number in range(newest, max(0, newest - _AROUND), -1):
        with contextlib.suppress(DatabaseDamagedError):
            snapshot = read_number(root, number)
            around += [snapshot.contents.vms] if snapshot else []
    said = {key: {vms[key].status for vms in around if key in vms} for key in edited}
    different = {
        key: state
        for key, state in edited.items()
        if not around or key not in around[0] or around[0][key].status != state
    }
    changed = {key: state for key, state in different.items() if state not in said[key]}
    return changed, {key: state for key, state in different.items() if key not in changed}


def _numbers(directory: Path, *, missing_ok: bool = False) -> list[int]:
    names = _names(directory) if missing_ok else list_fresh(directory)
    return list(generation_numbers(names))


def _buckets(root: Path) -> list[str]:
    """The directories of the history, oldest first."""
    return sorted(name for name in _names(root / "history") if name.isascii() and name.isdigit())


def _names(directory: Path) -> list[str]:
    try:
        return list_fresh(directory)
    except OSError:
        return []
