"""Holding a copy for as long as a VM runs from it: in its VM's record, and marked in its sidecar.

The record comes first. Where the sidecar cannot be written at once, because somebody works on the
VM's copies, or the caller is killed, the next database worker of any host does that (`settle`); an
end takes the same way. Whatever is between the two keeps the copy.
"""

import logging
from dataclasses import dataclass
from dataclasses import replace as with_fields
from functools import partial
from typing import Final

from shared.copies import catalogue, sidecar_files
from shared.copies import sidecar as sidecars
from shared.host.clock import timestamp
from shared.host.errors import CopyError, LockedError
from shared.site import Site
from shared.state.contents import Contents
from shared.state.hold import Hold, marks, merged
from shared.state.records import VmRecord
from shared.state.rules import holds as rules
from shared.state.rules import vm_records
from shared.state.rules.holds import Held
from shared.state.sessions.holding import holding
from shared.state.sessions.session import Session
from shared.tasks import commit_reasons, finding_unlisted, pruning, vm_copies

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Placed:
    """A hold that stands. `marked`: in the sidecar, too; else a database worker sees to that."""

    vm: str
    hold: Hold
    marked: bool


def place(
    site: Site, record: VmRecord, stamp: str, *, name: str, index: str, uuid: str = ""
) -> Placed:
    """Holds the copy `stamp` for the VM `name` that runs from it on this host.

    `index`: the digest of what it is read by. `uuid` is that VM's; the same call again may tell it
    later. Whoever works on the copy's VM meanwhile goes on, so backups do. Raises `LockedError`
    while copies of it are being moved or removed, or if `name` runs from another copy;
    `CopyError` if the copy is not there, `IllegalMoveError` if it was begun with another `index`,
    `NasError`.
    """
    pruning.find(site, record, stamp)
    hold = Hold(stamp, site.node, name, timestamp(site.clock.now()), index, uuid)
    with site.database.session("hold") as session:
        finding_unlisted.take_in(session, record)
        reason = commit_reasons.held(record.key, stamp, hold.title)
        session.commit(partial(rules.place, key=record.key, hold=hold), reason)
        _require_there(site, session, record.key, hold)
        marked = _settle_if_free(site, session, record.key)
    return Placed(record.key, hold, marked)


def end(site: Site, held: Held) -> bool:
    """Lets go of a copy. Returns whether it is free; else a database worker frees it.

    The end is noted in any case, and the VM of the copy may be claimed by anybody. May be repeated.
    Raises `NasError`, and what a commit raises.
    """
    when = timestamp(site.clock.now())
    reason = commit_reasons.let_go(held.vm, held.hold.stamp, held.hold.title)
    with site.database.session("hold") as session:
        finding_unlisted.take_in(session, held.record)
        head = session.commit(partial(rules.end, held=held, when=when), reason)
        key = next((vm.key for vm in head.contents.vms.values() if vm.uuid == held.uuid), "")
        return not key or _settle_if_free(site, session, key)


def of(site: Site, *, name: str = "") -> list[Held]:
    """The holds of this host that are not over, of the VM `name` or all, by the database."""
    found = rules.of_all(site.database.head().contents)
    return [
        each
        for each in found
        if each.hold.node == site.node and not each.hold.ended and name in ("", each.hold.name)
    ]


def named(site: Site, contents: Contents, name: str) -> list[Held]:
    """The holds that a person means: one by its title, or those on the copies of a VM.

    Also those of which sidecars alone tell, which are looked at if no record does. Raises
    `NasError`.
    """
    if found := rules.named(contents, name):
        return found
    if name in contents.vms:
        records = [contents.vms[name]]
    else:
        records = [*contents.vms.values(), *finding_unlisted.find(site, contents).records]
    marked = [
        Held(record, hold)
        for record in records
        for copy in vm_copies.in_all_places(site, record)
        for hold in copy.holds
    ]
    return [each for each in marked if name in (each.vm, each.uuid, each.hold.title)]


def is_settled(site: Site, record: VmRecord) -> bool:
    """Whether record and sidecars of a VM say the same of holds. Raises `NasError`."""
    if any(hold.ended for hold in record.holds):
        return False
    return all(
        copy.holds == marks(record.holds, copy.stamp)
        for copy in vm_copies.in_all_places(site, record)
        if copy.sidecar is not None
    )


def settle(site: Site, session: Session, key: str) -> None:
    """Makes the sidecars of a VM's copies and its record say the same of holds.

    What only one of them tells is written to the other; what is over goes from both. May be
    repeated after a crash. Raises `LockedError` while somebody works on the VM, `NasError`.
    """
    start = partial(rules.claim, key=key, floor=site.floor(key))
    with holding(session, start, f"holds of {key}") as held:
        marked: tuple[Hold, ...] = ()
        for copy in vm_copies.in_all_places(site, held.record):
            if copy.sidecar is None:
                continue
            wanted = marks(merged(held.record.holds, copy.holds), copy.stamp)
            marked = merged(marked, wanted)
            if wanted != copy.holds:
                held.check()
                _write(site, copy, copy.sidecar, wanted, held.claim.number)
        held.commit(
            partial(rules.settled, key=held.key, own=held.claim, marked=marked),
            f"holds of {key}: settled",
        )


def _write(
    site: Site,
    copy: catalogue.Copy,
    sidecar: sidecars.Sidecar,
    wanted: tuple[Hold, ...],
    claim: int,
) -> None:
    marked = with_fields(sidecar, holds=wanted)
    site.database.with_room(
        lambda: sidecar_files.replace(site.files, copy.directory, marked, claim)
    )


def _settle_if_free(site: Site, session: Session, key: str) -> bool:
    try:
        settle(site, session, key)
    except LockedError as error:
        log.info("the sidecar follows: %s", error.message, extra={"vm": key})
        return False
    return True


def _require_there(site: Site, session: Session, key: str, hold: Hold) -> None:
    """Raises `CopyError` if the copy went before it was held, and lets go of it then."""
    record = vm_records.find(session.head().contents, key)
    try:
        pruning.find(site, record, hold.stamp)
    except CopyError:
        when = timestamp(site.clock.now())
        gone = Held(record, hold)
        session.commit(partial(rules.end, held=gone, when=when), f"{hold.stamp} of {key} is gone")
        raise
