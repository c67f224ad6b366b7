"""Looking at every generation, also at damaged ones.

Reading takes no lock and relies on no version file: whether generations are files or directories is
seen, not believed.
"""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from shared.host.errors import DatabaseDamagedError, DatabaseVersionError
from shared.nas.reading import read_file
from shared.state import formats
from shared.state.store import version
from shared.state.store.anchor import Anchor, newest_anchor
from shared.state.store.chain import OLDER, SET_ASIDE, Finding, GenerationChain
from shared.state.store.generations import kept, numbers
from shared.state.store.kept_generations import Region, opened
from shared.state.store.layout import unreadable_numbers
from shared.state.store.readable_view import edited_views, render
from shared.state.store.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a walk over all generations found.

    `newest` is the newest number present, `head` the newest generation that can be used. `anchor`
    says which older ones were removed for their age.
    """

    generations: int
    oldest: int
    newest: int
    head: Snapshot | None
    findings: tuple[Finding, ...]
    bundles: int = 0
    anchor: Anchor | None = None


#: What is left to do where no generation can be used.
_REBUILD: Final = "vmbackup-admin statedb rebuild"

#: So many numbers are said at most.
_SAID: Final = 8

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
    regions = kept(root) if history else [Region((), tuple(current))]
    anchor = newest_anchor(root) if history else None
    chain = GenerationChain(root, current, anchor)
    bundles, total = 0, sum(region.count for region in regions)
    for region in regions:
        found = opened(root, region)
        for name, problem in found.damaged:
            chain.lose(name, problem)
        for number, data in found.generations():
            progress(chain.examined, total)
            chain.examine(number, data)
        bundles += len(found.bundles)
    findings, head = chain.findings, chain.before
    if not current:
        findings.append(Finding("gen/ has no generation", _REBUILD))
    elif head is None or head.generation not in current:
        findings = _beyond_setting_aside(findings)
    elif head.generation == current[-1]:
        findings += _examine_view(root, head)
        findings += [Finding(row.message, _UNUSABLE) for row in head.contents.unusable]
    findings += _examine_version(root, head)
    findings += _examine_aside(root)
    return Inspection(
        chain.examined, chain.oldest, chain.newest, head, tuple(findings), bundles, anchor
    )


def _beyond_setting_aside(findings: list[Finding]) -> list[Finding]:
    """The same, where `gen/` has no good generation that one could go on from.

    One that a newer program wrote is not damaged, and is left to that.
    """
    if not any(finding.hint.startswith(SET_ASIDE) for finding in findings):
        return findings
    return [
        replace(finding, hint=_REBUILD) if finding.hint.startswith((SET_ASIDE, OLDER)) else finding
        for finding in findings
    ]


def _examine_aside(root: Path) -> Iterator[Finding]:
    if found := unreadable_numbers(root):
        one = len(found) == 1
        which = ", ".join(map(str, found[:_SAID])) + (", …" if len(found) > _SAID else "")
        yield Finding(
            f"{'1 generation' if one else f'{len(found)} generations'} could not be read and "
            f"{'was' if one else 'were'} set aside: {which}",
            f"{OLDER}. A backup of the NAS may have them; they lie in {root / 'damaged'}, and may "
            f"be deleted",
            harmless=True,
        )


def _examine_view(root: Path, head: Snapshot) -> Iterator[Finding]:
    what = "is not what the newest generation says"
    cure = "the next worker repairs it; an edit by hand is kept beside it"
    try:
        same = read_file(root / "vmtool-statedb") == render(head.contents)
    except OSError as error:
        same = False
        if error.errno in (errno.EISDIR, errno.ENXIO, errno.ELOOP):
            what = "is no ordinary file"
            cure = "find out who put it there, and move it away: the next worker makes it anew"
    if not same:
        yield Finding(f"vmtool-statedb {what}", cure, harmless=True)
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
