"""Retention by hand: which copies are kept and why; removing and pinning copies.

A pin is in the copy's sidecar and nowhere else: it moves with the copy into the archive and back,
survives the loss of the state database, and retention, which reads the sidecars anyway, cannot
overlook it. Whatever is changed is changed under a claim on the VM.
"""

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final, Literal

from shared.copies import catalogue, permits, retention, sidecar_files
from shared.copies.copy_files import Permit
from shared.copies.retention import Decision, Rules
from shared.host.clock import timestamp
from shared.host.configuration import VmPolicy
from shared.host.errors import CopyError, IllegalMoveError, NotInCopyError
from shared.host.printable import quoted
from shared.nas.mount import check_nas
from shared.nas.spelling import folded
from shared.site import Site
from shared.state.hold import require_unheld
from shared.state.records import VmRecord
from shared.state.rules import holds, readers, vm_records
from shared.state.sessions.holding import Holding
from shared.state.sessions.session import Session
from shared.state.states import State
from shared.tasks import commit_reasons, vm_copies

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of a VM's copies.

    `removed` are stamps; also of files that interrupted removals had left.
    """

    key: str
    decisions: tuple[Decision, ...]
    removed: tuple[str, ...]


def rules_of(policy: VmPolicy) -> Rules:
    """The retention that a policy asks for."""
    return Rules(
        policy.keep_last,
        policy.keep_daily,
        policy.keep_weekly,
        policy.keep_monthly,
        policy.keep_yearly,
    )


def decide(site: Site, record: VmRecord) -> tuple[Decision, ...]:
    """What retention says of each copy now, newest first. Changes nothing, takes no lock.

    Raises `IllegalMoveError` if it is archived.
    """
    if record.status == State.ARCHIVED:
        raise IllegalMoveError(
            f"{record.key} is {record.status}: retention does not touch archived copies",
            hint=f"vmbackup-admin activate {quoted(record.key)}",
        )
    copies = catalogue.read(site.directory(record), record.uuid).copies if record.directory else ()
    return tuple(
        retention.select(copies, rules_of(site.policy(record)), protect=_protected(site, record))
    )


def _protected(site: Site, record: VmRecord) -> frozenset[str]:
    """The stamps of the copy that made the VM CLEAN, and of those that somebody reads or holds.

    Retention leaves them alone, whatever their names say.
    """
    read = readers.readers(site.database.head().contents, record.uuid)
    last = frozenset({record.last_copy.stamp} if record.last_copy else ())
    return last | frozenset(read) | holds.stamps(record)


def prune(site: Site, session: Session, key: str) -> Pruned:
    """Removes the copies of a VM that no rule keeps, by this host's configuration.

    The newest good one stays in any case.

    May be repeated after a crash. Raises `IllegalMoveError` if the VM is archived, `LockedError`
    while somebody works on it, `NasError`.
    """
    decide(site, vm_records.find(site.database.head().contents, key))
    with _hold(site, session, key, "prune", f"prune {key}") as held:
        decisions = decide(site, held.record)
        rules, directory = (
            rules_of(site.policy(held.record)),
            site.directory(held.record),
        )
        removed = (
            retention.apply(
                site.files,
                directory,
                held.record.uuid,
                rules,
                protect=_protected(site, held.record),
                check=held.check,
            )
            if decisions
            else []
        )
        reason = commit_reasons.with_removed(f"prune {key}: done", removed)
        vm_copies.commit_found(site, held, reason)
    for stamp in removed:
        log.info("copy %s removed: no rule keeps it", stamp, extra={"vm": key})
    return Pruned(key, decisions, tuple(removed))


@dataclass(frozen=True, slots=True)
class Removed:
    """A copy that an operator let go, and what the VM is now."""

    key: str
    stamp: str
    archived: bool
    status: State


def removable(
    site: Site, record: VmRecord, stamp: str, *, last: bool
) -> tuple[catalogue.Copy, Permit]:
    """The copy, and the permit to remove it now. Changes nothing.

    Raises `CopyError` if there is no such copy, `IllegalMoveError` if it must stay: pinned, of
    another VM, the last good one (unless `last`), or with a sidecar that does not tell whose it is,
    in a directory that is not this VM's alone. Raises `LockedError` while somebody reads or holds
    it.
    """
    copy = find(site, record, stamp)
    require_unheld(record.key, record.holds, "it cannot be removed", stamp)
    readers.require_unread(site.database.head().contents, record.uuid, stamp)
    if copy.sidecar is None:
        vms = site.database.head().contents.vms.values()
        if other := next(
            (
                vm.key
                for vm in vms
                if vm.key != record.key and folded(vm.directory) == folded(record.directory)
            ),
            None,
        ):
            raise IllegalMoveError(
                f"{stamp} may be a copy of {other}, whose copies are in the same directory: "
                f"{copy.problem}"
            )
    return copy, permits.chosen(copy.directory, record.uuid, stamp, vm=record.key, last=last)


def remove(site: Site, session: Session, key: str, stamp: str, *, last: bool = False) -> Removed:
    """Removes one copy with all its files, archived or not, because an operator said so.

    Commits which copies are left. A VM whose newest copy that was is to be backed up again. May be
    repeated after a crash. Raises like `removable`, `LockedError`.
    """
    removable(site, vm_records.find(site.database.head().contents, key), stamp, last=last)
    with _hold(site, session, key, "prune", f"remove {key} {stamp}") as held:
        copy, permit = removable(site, held.record, stamp, last=last)
        held.check()
        retention.remove_copy(site.files, permit)
        _, now = vm_copies.commit_found(site, held, commit_reasons.removed_by_hand(key, stamp))
    log.info("copy %s removed by hand", stamp, extra={"vm": key})
    return Removed(
        key,
        stamp,
        held.record.status == State.ARCHIVED and copy.directory != site.directory(held.record),
        now.status,
    )


def pin(site: Site, session: Session, key: str, stamp: str, *, pinned: bool) -> bool:
    """Exempts a copy from retention, or takes that back; False if it was so already.

    Archived copies can be pinned, too.

    Raises `CopyError` if there is no such copy or its sidecar is damaged, `LockedError` while
    somebody works on the VM, `NasError`.
    """
    if find(site, vm_records.find(site.database.head().contents, key), stamp).pinned == pinned:
        return False
    what = commit_reasons.pinned(key, stamp, pinned=pinned)
    with _hold(site, session, key, "pin", what) as held:
        copy = find(site, held.record, stamp)
        if copy.sidecar is None:
            raise CopyError(
                f"{key}: {stamp} cannot be pinned: {copy.problem}",
                hint="retention never removes a copy in this state",
            )
        held.check()
        when = timestamp(site.clock.now()) if pinned else ""
        sidecar = replace(copy.sidecar, pinned=when)
        site.database.with_room(
            lambda: sidecar_files.replace(site.files, copy.directory, sidecar, held.claim.number)
        )
    return True


def find(site: Site, record: VmRecord, stamp: str) -> catalogue.Copy:
    """The copy of that stamp, archived or not.

    Raises `NotInCopyError` if there is none, `IllegalMoveError` if it is another VM's.
    """
    for directory, _archived in site.directories(record):
        copy = catalogue.read(directory, record.uuid).find(stamp)
        if copy is not None and copy.ours:
            return copy
        if copy is not None:
            raise IllegalMoveError(
                f"{stamp} in {directory} is none of {record.key}: {copy.problem}"
            )
    lists = f"`vmbackup-admin copies {quoted(record.key)}` lists them"
    if stamp in ("latest", "previous"):
        lists = f"this needs the stamp itself, so that no other copy is meant: {lists}"
    raise NotInCopyError(f"{record.key} has no copy {stamp}", hint=lists)


def _hold(
    site: Site, session: Session, key: str, purpose: Literal["prune", "pin"], reason: str
) -> AbstractContextManager[Holding]:
    """Holds a VM whose copies are to be changed. Raises `NasError` if the NAS takes no writes."""
    site.database.with_room(lambda: check_nas(site.configuration.nas, write=True))
    return vm_copies.hold(site, session, key, purpose, reason)
