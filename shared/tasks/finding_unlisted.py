"""Unlisted copies: those on the NAS of which no record of the state database tells.

After `forget`, after `init`, of hosts that have not run yet, or when there is no database at all.
They are handled by records that are made of them and are not in the database: what only reads works
on such a record as it is, what changes something takes it in first (`take_in`).
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.copies import chronology
from shared.copies.survey import CopiesPlace, FoundVm, survey
from shared.host.clock import timestamp
from shared.host.errors import VmBackupError
from shared.nas.spelling import folded
from shared.site import Site
from shared.state.contents import Contents
from shared.state.hold import merged
from shared.state.records import VmRecord
from shared.state.rules import copies as copies_rules
from shared.state.rules import unlisted as rules
from shared.state.rules import vm_records
from shared.state.sessions.session import Session
from shared.state.states import INITIAL
from shared.tasks import vm_copies

if TYPE_CHECKING:
    from shared.tasks.archiving import MoveResult, Progress

log: Final = logging.getLogger(__name__)

#: In a record that is not in the database: no session is called so.
_NOBODY: Final = "-"


@dataclass(frozen=True, slots=True)
class Unlisted:
    """What there is without a record.

    `records` are made of the copies, one for each VM and directory. `nobodys` are directories with
    what may be copies and does not tell whose. `problems` say where one could not look. `own` are
    by UUID the records of VMs without any other record whose directory is theirs alone, of several
    the one with the newest good copy: where the VM goes on when it is found.
    """

    records: tuple[VmRecord, ...]
    nobodys: tuple[CopiesPlace, ...]
    problems: tuple[str, ...]
    own: Mapping[str, VmRecord] = field(default_factory=dict)


def find(site: Site, contents: Contents, *, everywhere: bool = False) -> Unlisted:
    """Looks for copies of which no record in `contents` tells.

    Not in the directories of VMs that have a record, unless `everywhere`: there may be copies of
    other VMs. Reads sidecars, and writes nothing. Raises `NasError` if the NAS cannot be listed.
    """
    nas, problems = site.configuration.nas, []
    try:
        archive = bool(site.archive)
    except VmBackupError as error:
        archive = False
        problems.append(f"{error.message} ({error.hint})")
    recorded = {record.directory for record in contents.vms.values() if record.directory}
    seen = survey(nas, archive=archive, besides=() if everywhere else recorded)
    known = {(vm.uuid.lower(), folded(vm.directory)) for vm in contents.vms.values()}
    uuids = {vm.uuid.lower() for vm in contents.vms.values()}
    when = timestamp(site.clock.now())
    records = [
        _record(vm, directory, whole=whole, when=when)
        for uuid, vm in seen.vms.items()
        if (directories := _without_record(vm, known))
        for whole in [len(directories) == 1 and uuid not in uuids]
        for directory in directories
    ]
    shared = {
        (vm.uuid, place.directory)
        for vm in seen.vms.values()
        for place in vm.places
        if place.shared
    }
    own: dict[str, VmRecord] = {}
    given = {folded(name) for name in recorded}
    for record in records:
        alone = (record.uuid, record.directory) not in shared
        if alone and record.uuid not in {*uuids, *own} and folded(record.directory) not in given:
            own[record.uuid] = record
            given.add(folded(record.directory))
    return Unlisted(tuple(records), seen.unknown, (*problems, *seen.problems), own)


def _without_record(vm: FoundVm, known: Collection[tuple[str, str]]) -> list[str]:
    return [name for name in vm.directories if (vm.uuid, folded(name)) not in known]


def _record(vm: FoundVm, directory: str, *, whole: bool, when: str) -> VmRecord:
    """A record of the copies of a VM in one directory.

    Its key is the UUID, or the path of the directory if the UUID has others, too: what commands
    take for it.
    """
    here = FoundVm(vm.uuid, tuple(place for place in vm.places if place.directory == directory))
    key = vm.uuid if whole else str(here.places[0].path)
    made = VmRecord(
        key, here.name, vm.uuid, here.node, directory, INITIAL, when, taken_in_by=_NOBODY
    )
    return replace(made, holds=merged((), (hold for copy, _ in here.copies for hold in copy.holds)))


def paths(site: Site, record: VmRecord) -> list[Path]:
    """The directories with unlisted copies."""
    return [path for path, _ in site.directories(record) if path.is_dir()]


def is_listed(record: VmRecord) -> bool:
    """Whether the database tells of the VM, and not of its copies for a moment, or not at all."""
    return not record.taken_in_by


def take_in(session: Session, record: VmRecord) -> None:
    """Has the database tell of unlisted copies for as long as `session` lives; others: nothing.

    After a crash the record goes with the session. Raises what `rules.take_in` and a commit raise.
    """
    if not is_listed(record):
        change = partial(rules.take_in, made=record, session=session.id)
        session.commit(change, f"work on the copies of {record.name} {{{record.uuid}}}")


def archive(site: Site, record: VmRecord, progress: "Progress") -> "MoveResult":
    """Gives unlisted copies a record that is ARCHIVED and stays, and moves them to the archive.

    The record says first that they are to be moved: after a crash the same command for its UUID,
    or the next database worker, goes on. Raises what `archiving.archive` raises, `LockedError`
    while somebody works on the copies, `IllegalMoveError` if they lie in another VM's directory.
    """
    from shared.tasks import archiving  # only here: workers look for such copies at each tick

    site.prepare_archive()
    archiving.require_movable(site, record)
    good = chronology.oldest_first(
        copy for copy, _ in vm_copies.copies(site, record) if copy.good and copy.sidecar
    )
    found = vm_copies.look_up_copies(site, record)
    newest = good[-1].sidecar if good else None
    made = copies_rules.with_copies(
        record, replace(found, newest=vm_copies.as_record(newest) if newest else None)
    )
    when = timestamp(site.clock.now())
    head = site.database.commit_once(
        partial(rules.keep_archived, made=made, when=when),
        f"archive the copies of {record.name} {{{record.uuid}}}",
        "archive",
    )
    key = vm_records.meant(head.contents, record.uuid).key
    return archiving.archive(site, key, progress)
