"""The order in which VMs are backed up, and the line for the slots that the NAS has for exports.

What has to wait is no failure: it is logged, and noted in the database, where `vmbackup-admin
status` shows it.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from shared.host.errors import IllegalMoveError, UnknownVmError
from shared.host.logs import NOTICE
from shared.host.printable import option, quoted
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import backup as backup_rules
from shared.state.rules import queue, sightings, vm_records
from shared.state.sessions.session import Session
from shared.state.states import Event, State
from worker.backup.window import Readiness

log: Final = logging.getLogger(__name__)

#: What is noted of VMs for which there is no slot; without figures, so that it does not change
#: while they wait.
NO_SLOT: Final = "waits for a place: as many exports run on the NAS as are allowed"


def waiting(site: Site, contents: Contents, only: str | None = None) -> list[VmRecord]:
    """This host's VMs (or the VM `only`) that wait for a backup: longest without a copy first.

    Not those that the configuration leaves out.

    Time is counted in claims, which no clock can upset. A VM whose last attempt failed stands where
    that attempt does, behind all that have waited longer, so that one that always fails keeps
    nobody waiting, and a new one is not passed over for ever.
    """
    records = (
        record
        for record in contents.vms.values()
        if record.node == site.node
        and only in (None, record.key)
        and may_be_claimed(record)
        and not site.backup_rule(record).left_out
    )
    return sorted(records, key=lambda record: (last_attempt(record), record.found, record.key))


def may_be_claimed(record: VmRecord) -> bool:
    """Whether a backup worker may take it now."""
    free = record.claim is None and record.publishing is None and record.power is None
    return record.status == State.BACKUP_NECESSARY and free and record.missing_since is None


def last_attempt(record: VmRecord) -> int:
    """The claim of the newest good copy or of a failed attempt since, whichever is later.

    0 if there was none.
    """
    return max(record.last_copy.claim if record.last_copy else 0, record.last_failed_claim)


def deferred(site: Site, contents: Contents) -> Iterable[str]:
    """This host's VMs that wait until they stop: those that it still has, and does not leave out.

    One that ran when it was unregistered is missing, which is said of it, and stops no more.
    """
    return (
        record.key
        for record in contents.vms.values()
        if record.node == site.node
        and record.status == State.RUNNING
        and record.missing_since is None
        and not site.backup_rule(record).left_out
    )


def require_backup(site: Site, contents: Contents, vm: str) -> str:
    """The key of the VM that is meant by `vm`; raises if it cannot be backed up here at all.

    With what to do: `UnknownVmError`, `LockedError` while somebody works on it, `IllegalMoveError`
    if it is archived or left out.
    """
    record = vm_records.meant(contents, vm)
    key = record.key
    vm_records.require_free(record)
    if record.node != site.node:
        raise UnknownVmError(
            f"{key} belongs to the host {record.node}", hint="run its backup there"
        )
    if record.status == State.ARCHIVED:
        raise IllegalMoveError(
            f"{key} is {record.status} and is never backed up",
            hint=f"vmbackup-admin activate {quoted(key)}",
        )
    if (said := site.backup_rule(record)).left_out:
        raise IllegalMoveError(
            f"{key} is left out of backups: {said.rule}",
            hint=f"change that rule; `vmbackup-admin show {quoted(key)}` tells which one decides "
            f"afterwards",
        )
    return key


def as_wanted_now(site: Site, contents: Contents, record: VmRecord) -> tuple[Site, Contents]:
    """How site and contents are for a backup of a VM that its operator wants now. Pure."""
    configuration = site.configuration.without_waiting(record.name, record.groups)
    wanted = sightings.apply_events(contents, {record.uuid: (Event.WANTED,)})
    return replace(site, configuration=configuration), wanted


def wanted_now(site: Site, record: VmRecord) -> tuple[Site, Contents]:
    """Commits that a VM waits for a backup because its operator wants one: site and contents."""
    head = site.database.commit_once(
        lambda contents: as_wanted_now(site, contents, record)[1],
        f"a backup of {record.key} is wanted now",
        "backup",
    )
    return as_wanted_now(site, head.contents, record)


def why_not(site: Site, contents: Contents, key: str) -> str:
    """Why a VM that an operator named is not backed up, and what would."""
    from shared.tasks.verdicts import judge  # only here: no tick asks, and it is large

    (verdict,) = judge(site, contents, only=[key]).vms
    record = contents.vms[key]
    may = record.missing_since is None and record.publishing is None and record.power is None
    how = f". `vmbackup-worker backup {option('--vm', key)} --now` backs it up all the same"
    return f"{key} is {record.status} and not backed up: {verdict.reason}{how if may else ''}"


def wait_for_slot(site: Site, session: Session, key: str) -> bool:
    """Gets in line and waits, for a bounded time, until it is this VM's turn; whether it is.

    The line is in the database: nobody who comes later goes first. If its time is over, the VM
    keeps its number in the line, and who is behind it no longer waits for it.
    """
    clock, backup = site.clock, site.configuration.backup
    session.commit(
        lambda found: queue.join(backup_rules.note_waiting(found, {key: NO_SLOT}), key, session.id),
        f"{key} {NO_SLOT}",
    )
    what = "waiting for a place on the NAS, where others export: %g s at most"
    log.log(NOTICE, what, backup.retry_seconds, extra={"vm": key})
    end = clock.monotonic() + backup.retry_seconds
    while not queue.has_slot(site.database.head().contents, key, backup.exports_on_nas):
        if clock.monotonic() >= end:
            session.commit(
                lambda found: queue.leave(found, key, session.id),
                f"{key} leaves its place to others",
            )
            return False
        clock.sleep(backup.retry_interval_seconds / 2 + clock.jitter(backup.retry_interval_seconds))
        session.check()
    return True


def note_postponed(site: Site, session: Session, postponed: Mapping[str, Readiness]) -> None:
    """Says which VMs were postponed, and notes why. Commits only what is new."""
    for key, verdict in postponed.items():
        level = logging.ERROR if verdict.never or verdict.nas else logging.INFO
        log.log(level, "not now: %s", verdict.details or verdict.reason, extra={"vm": key})
    reasons = {key: verdict.reason for key, verdict in postponed.items()}
    contents = site.database.head().contents
    if backup_rules.note_waiting(contents, reasons) != contents:
        text = "; ".join(f"{key} {reason}" for key, reason in reasons.items())
        session.commit(lambda found: backup_rules.note_waiting(found, reasons), text)
