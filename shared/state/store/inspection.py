"""Looking at every generation, also at damaged ones.

Reading takes no lock and relies on no version file: whether generations are files or directories is
seen, not believed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from shared.host.errors import DatabaseDamagedError, DatabaseVersionError
from shared.nas.reading import read_file
from shared.state import formats
from shared.state.store import version
from shared.state.store.generations import follows, historic_numbers, numbers, read_number
from shared.state.store.protocol import NO_PREVIOUS
from shared.state.store.snapshot import Snapshot
from shared.state.store.view import edited_views, render


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


_SET_ASIDE: Final = "vmbackup-admin statedb check --set-aside"
_OLDER: Final = "older ones serve the log only: nothing needs to be done"

#: What is left to do where no generation can be used.
_REBUILD: Final = "vmbackup-admin statedb rebuild"

#: What can be done about a record that does not fit.
_UNUSABLE: Final = (
    "update vmbackup on this host if a newer program wrote it; otherwise vmbackup-admin forget VM, "
    "vmbackup-lock recover NODE --replaced, or vmbackup-lock break SESSION --force"
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
        findings.append(Finding("gen/ has no generation", _REBUILD))
    elif head is None or head.generation not in current:
        findings = _beyond_setting_aside(findings)
    elif head.generation == current[-1]:
        findings += _examine_view(root, head)
        findings += [Finding(row.message, _UNUSABLE) for row in head.contents.unusable]
    findings += _examine_version(root, head)
    newest = everything[-1] if everything else 0
    return Inspection(
        len(everything), everything[0] if everything else 0, newest, head, tuple(findings)
    )


def _beyond_setting_aside(findings: list[Finding]) -> list[Finding]:
    """The same, where `gen/` has no good generation that one could go on from.

    One that a newer program wrote is not damaged, and is left to that.
    """
    if not any(finding.hint.startswith(_SET_ASIDE) for finding in findings):
        return findings
    return [
        replace(finding, hint=_REBUILD)
        if finding.hint.startswith((_SET_ASIDE, _OLDER))
        else finding
        for finding in findings
    ]


def _examine(
    root: Path, number: int, before: Snapshot | None, *, newest: int, findings: list[Finding]
) -> Snapshot | None:
    """Checks one generation against the one before it; returns the last good one."""
    aside = f"{_SET_ASIDE} {number}" if number == newest else _OLDER
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
