"""Verifying copies: each is read again in full, and the result is written into its sidecar.

A damaged copy is marked there and from then on never counts; nothing is ever deleted. Copies that
took blocks over from it are suspect, and are read next (`shared.tasks.suspicion`). Which copies
are left is committed: if its newest good copy is gone, the VM has to be backed up again. All of it
happens under a claim on the VM, one claim for each copy, so that a backup which is due waits for
one copy at most. Killed at any point, the next verification finds the copy unverified.
"""

import errno
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from shared.copies import catalogue
from shared.copies import sidecar as sidecars
from shared.copies.names import SIDES, Suffix, final_name
from shared.copies.sidecar import Rehearsed, Sidecar, Verified
from shared.host.clock import is_over, timestamp
from shared.host.configuration import Configuration
from shared.host.errors import CopyError, NasError
from shared.nas.reading import look, present
from shared.ova.check import check_ova, sha256_of
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import vm_records
from shared.state.sessions.holding import Holding
from shared.state.sessions.session import Session
from shared.tasks import suspicion, vm_copies
from shared.tasks.vm_copies import copies, differs, last_read, look_up_copies, said

log: Final = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

_DAY_SECONDS: Final = 86400
_GOOD: Final = "good"
#: How often a file is read that answers with an input/output error before it is called damaged.
_READS: Final = 2


@dataclass(frozen=True, slots=True)
class Examined:
    """A copy that was read in full. `problem` says what is wrong with it; empty: nothing."""

    key: str
    stamp: str
    archived: bool
    size: int
    problem: str


def due(contents: Contents, configuration: Configuration, now: datetime) -> list[VmRecord]:
    """The VMs whose copies should be looked at: the one with the longest unverified copy first.

    A VM that was found with damaged copies is among them as long as they are there. Reads nothing
    but the database.
    """
    found = [
        record
        for record in contents.vms.values()
        if is_free(record) and (record.damaged or _overdue(record, configuration, now))
    ]
    return sorted(found, key=lambda record: (said(record.verified, now), record.key))


def is_free(record: VmRecord) -> bool:
    """Whether nobody works on the VM, and nothing that somebody began has to be finished first."""
    return bool(record.directory) and not (
        record.claim or record.publishing or record.moving or record.power
    )


def _overdue(record: VmRecord, configuration: Configuration, now: datetime) -> bool:
    days = configuration.policy_for(record.name, record.groups).verify_days
    if not record.verified:
        return record.last_copy is not None and days > 0
    return _older(record.verified, days, now)


def _older(moment: str, days: float, now: datetime) -> bool:
    """Whether a time of the database is at least so many days ago. With `days` 0, never.

    What is no time, or lies ahead, was always too long ago.
    """
    return days > 0 and is_over(now, moment, days * _DAY_SECONDS)


def due_copies(site: Site, record: VmRecord, now: datetime) -> list[catalogue.Copy]:
    """The copies of a VM that were last read longer ago than its policy says, the oldest first.

    Raises `NasError`.
    """
    days = site.policy(record).verify_days
    unmarked = (
        (copy, copy.sidecar)
        for copy, _ in copies(site, record)
        if copy.sidecar and not copy.sidecar.damage
    )
    found = [
        (last_read(side), copy) for copy, side in unmarked if _older(last_read(side), days, now)
    ]
    return [
        copy for _, copy in sorted(found, key=lambda pair: said(pair[0], now))
    ]  # of those read at the same time the oldest


def verify_copy(
    site: Site,
    session: Session,
    key: str,
    stamp: str,
    progress: Progress = lambda _done, _total: None,
) -> Examined | None:
    """Reads one copy of the VM, marks it, and commits what that means for the VM.

    None if the copy is gone by now.

    Raises `LockedError` if somebody works on the VM, `LockLostError` if this process was displaced,
    `NasError` (nothing is marked then).
    """
    with vm_copies.hold(site, session, key, "verify", f"verify {key} {stamp}") as held:
        found = next(
            (
                (copy, archived)
                for copy, archived in copies(site, held.record)
                if copy.stamp == stamp
            ),
            None,
        )
        if found is None:
            _settle(site, held, f"verify {key}: {stamp} is gone")
            return None
        copy, archived = found
        problem = _examine(session, copy, progress)
        if copy.sidecar is not None:
            if problem and not copy.sidecar.damage:
                suspicion.spread(site, held, stamp)
            read = Verified(timestamp(site.clock.now()), problem or _GOOD)
            _mark(site, held, copy, replace(copy.sidecar, verified=read, suspect=""))
        _settle(site, held, f"verify {key} {stamp}: {problem or _GOOD}")
    if problem:
        log.error(
            "the copy %s is damaged and does not count any more: %s",
            stamp,
            problem,
            extra={"vm": key},
        )
    else:
        log.info("the copy %s is good", stamp, extra={"vm": key})
    return Examined(key, stamp, archived, copy.size, problem)


def settle(site: Site, session: Session, key: str) -> None:
    """Commits which copies the VM has, without reading them, if the database says otherwise.

    Raises like `verify_copy`.
    """
    record = vm_records.find(site.database.head().contents, key)
    if not differs(record, look_up_copies(site, record)):
        return
    with vm_copies.hold(site, session, key, "verify", f"look at the copies of {key}") as held:
        _settle(site, held, f"looked at the copies of {key}")


def note_rehearsal(site: Site, session: Session, key: str, stamp: str, result: Rehearsed) -> bool:
    """Writes the result of a rehearsal beside the copy; False if the copy is gone by now.

    Raises like `verify_copy`.
    """
    reason = f"note the rehearsal of {key} {stamp}"
    with vm_copies.hold(site, session, key, "verify", reason) as held:
        copy = next((copy for copy, _ in copies(site, held.record) if copy.stamp == stamp), None)
        if copy is not None and copy.sidecar is not None:
            _mark(site, held, copy, replace(copy.sidecar, rehearsed=result))
        _settle(site, held, f"rehearsed {key} {stamp}: {result.result}")
    return copy is not None


def _examine(session: Session, copy: catalogue.Copy, progress: Progress) -> str:
    """Like `examine`, while the session lives."""

    def report(done: int, total: int) -> None:
        session.check()
        session.doing.at(done, total)
        progress(done, total)

    return examine(copy, report)


def examine(copy: catalogue.Copy, report: Progress = lambda _done, _total: None) -> str:
    """What is wrong with the copy, every byte of it read; empty if nothing is.

    Writes nothing. Raises `NasError` if the NAS as a whole is in trouble.
    """
    if copy.sidecar is None:
        return copy.problem
    for _ in range(_READS):
        try:
            check(copy, report)
            check_side_files(copy)
        except CopyError as error:
            return error.message
        except NasError as error:
            if not (isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO):
                raise
            sidecars.read(
                copy.directory, copy.stamp
            )  # raises if the NAS as a whole is in trouble, and not this file
        else:
            return ""
    return "it cannot be read (input/output error), although the NAS answers"


def check(copy: catalogue.Copy, progress: Progress = lambda _done, _total: None) -> None:
    """Reads the `.ova` of a copy in full.

    Raises `CopyError` that says what is wrong with it, `NasError` if it cannot be read.
    """
    if copy.sidecar is None:
        raise CopyError(copy.problem)
    if copy.size != copy.sidecar.size:
        raise CopyError(f"its .ova has {copy.size} bytes instead of {copy.sidecar.size}")
    found = check_ova(copy.directory, final_name(copy.stamp, "ova"), progress=progress)
    if found.sha256 != copy.sidecar.sha256:
        raise CopyError("its SHA-256 is not the one that it was published with")


def check_side_files(copy: catalogue.Copy, wanted: Collection[Suffix] = SIDES) -> None:
    """Reads the side files of the kinds `wanted` in full.

    Raises `CopyError` that says which one is not as the sidecar says, `NasError` if one cannot be
    read.
    """
    for suffix, side in copy.sidecar.files.items() if copy.sidecar else ():
        if suffix not in wanted:
            continue
        name = final_name(copy.stamp, suffix)
        there = look(copy.directory)
        if not present(there, name):
            raise CopyError(f"{name} is missing")
        if there[name].size != side.size:  # what grew to many gigabytes is not read
            raise CopyError(f"{name} has {there[name].size} bytes instead of {side.size}")
        if sha256_of(copy.directory, name) != side.sha256:
            raise CopyError(f"the SHA-256 of {name} is wrong")


def _mark(site: Site, held: Holding, copy: catalogue.Copy, sidecar: Sidecar) -> None:
    """Replaces the sidecar of a copy, after a look whether the VM is still held."""
    held.check()
    sidecars.replace(site.files, copy.directory, sidecar, held.claim.number)


def _settle(site: Site, held: Holding, reason: str) -> None:
    """Commits which copies the VM has, lets go of it, and reports the loss of its newest copy."""
    found, _ = vm_copies.commit_found(site, held, reason)
    last = held.record.last_copy
    if last is not None and found.lacks(last):
        newest = found.newest
        left = f"the newest good one is {newest.stamp}" if newest else "there is no good one"
        log.error(
            "the newest copy %s is not good any more; %s", last.stamp, left, extra={"vm": held.key}
        )
