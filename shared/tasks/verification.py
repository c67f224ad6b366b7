"""Verifying copies.

Each is read again in full, compared with its digests, and the result is written beside it.

A damaged copy is marked in its sidecar and from then on never counts; nothing is ever deleted. What
there is left of the VM's copies is committed: if its newest good copy is gone, the VM has to be
backed up again. All of it happens under a claim on the VM, one claim for each copy, so that a
backup which is due waits for one copy at most. Killed at any point, the next verification finds the
copy unverified.
"""

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Self

from shared.copies import catalogue
from shared.copies import sidecar as sidecars
from shared.copies.names import final_name
from shared.copies.sidecar import Rehearsed, Sidecar, Verified
from shared.host.clock import is_over, timestamp
from shared.host.configuration import Configuration
from shared.host.errors import CopyError, LockLostError, NasError, VmBackupError
from shared.nas.reading import look, present
from shared.ova.check import check_ova, sha256_of
from shared.site import Site
from shared.state.records import Claim, Contents, VmRecord
from shared.state.rules import changes, upkeep
from shared.state.rules.upkeep import FoundCopies
from shared.state.sessions.session import Session
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
    if not record.verified:
        return record.last_copy is not None
    return _older(record.verified, configuration.policy_for(record.name).verify_days, now)


def _older(moment: str, days: float, now: datetime) -> bool:
    """Whether a time of the database is at least so many days ago. No day at all: never.

    What is no time, or lies ahead: for ever.
    """
    return days > 0 and is_over(now, moment, days * _DAY_SECONDS)


def due_copies(site: Site, record: VmRecord, now: datetime) -> list[catalogue.Copy]:
    """Those copies of a VM that were not read for so long as its policy says, the longest unverified first. Raises `NasError`."""
    days = site.configuration.policy_for(record.name).verify_days
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
    with _Claimed(site, session, key, f"verify {key} {stamp}") as claimed:
        found = next(
            (
                (copy, archived)
                for copy, archived in copies(site, claimed.record)
                if copy.stamp == stamp
            ),
            None,
        )
        if found is None:
            claimed.settle(f"verify {key}: {stamp} is gone")
            return None
        copy, archived = found
        problem = _examine(session, copy, progress)
        if copy.sidecar is not None:
            claimed.mark(
                copy,
                replace(
                    copy.sidecar, verified=Verified(timestamp(site.clock.now()), problem or _GOOD)
                ),
            )
        claimed.settle(f"verify {key} {stamp}: {problem or _GOOD}")
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
    """Commits what there is of the VM's copies without reading them, if that is not what the database says. Raises like `verify_copy`."""
    record = changes.find(site.database.head().contents, key)
    if not differs(record, look_up_copies(site, record)):
        return
    with _Claimed(site, session, key, f"look at the copies of {key}") as claimed:
        claimed.settle(f"looked at the copies of {key}")


def note_rehearsal(site: Site, session: Session, key: str, stamp: str, result: Rehearsed) -> bool:
    """Writes the result of a rehearsal beside the copy; False if the copy is gone by now.

    Raises like `verify_copy`.
    """
    with _Claimed(site, session, key, f"note the rehearsal of {key} {stamp}") as claimed:
        copy = next((copy for copy, _ in copies(site, claimed.record) if copy.stamp == stamp), None)
        if copy is not None and copy.sidecar is not None:
            claimed.mark(copy, replace(copy.sidecar, rehearsed=result))
        claimed.settle(f"rehearsed {key} {stamp}: {result.result}")
    return copy is not None


def _examine(session: Session, copy: catalogue.Copy, progress: Progress) -> str:
    """What is wrong with the copy, every byte of it read; empty if nothing is."""

    def report(done: int, total: int) -> None:
        session.check()
        session.doing.bytes_done, session.doing.percent = (
            done,
            round(100 * done / total, 1) if total else None,
        )
        progress(done, total)

    if copy.sidecar is None:
        return copy.problem
    for _ in range(_READS):
        try:
            check(copy, report)
            _check_sides(copy)
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


def _check_sides(copy: catalogue.Copy) -> None:
    for suffix, side in copy.sidecar.files.items() if copy.sidecar else ():
        name = final_name(copy.stamp, suffix)
        if not present(look(copy.directory), name):
            raise CopyError(f"{name} is missing")
        if sha256_of(copy.directory, name) != side.sha256:
            raise CopyError(f"the SHA-256 of {name} is wrong")


class _Claimed:
    """One VM, held while its copies are looked at."""

    def __init__(self, site: Site, session: Session, key: str, reason: str) -> None:
        self._site, self._session, self._key, self._reason = site, session, key, reason
        self._own: Claim | None = None

    def __enter__(self) -> Self:
        session, key, when, floor = (
            self._session,
            self._key,
            timestamp(self._site.clock.now()),
            self._site.floor(self._key),
        )
        self.record, self._own = session.claim(
            lambda contents: changes.claim(contents, key, session.id, "verify", when, floor=floor),
            self._reason,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        doing, own, key = self._session.doing, self._own, self._key
        doing.vm = doing.phase = ""
        doing.percent = doing.bytes_done = None
        # On other ways out the end of the session frees the claim.
        if (
            own is not None
            and isinstance(error, VmBackupError)
            and not isinstance(error, LockLostError)
        ):
            self._session.commit(
                lambda contents: changes.released(contents, key, own),
                f"{self._reason}: {error.message}",
            )

    def mark(self, copy: catalogue.Copy, sidecar: Sidecar) -> None:
        """Replaces the sidecar of a copy, after a look whether the VM is still held."""
        own = self._held()
        changes.held(self._site.database.head().contents, self._key, own)
        sidecars.replace(self._site.files, copy.directory, sidecar, own.number)

    def settle(self, reason: str) -> None:
        """Commits what there is of the VM's copies, and lets go of the VM."""
        own, key = self._held(), self._key
        found = look_up_copies(self._site, self.record)
        self._session.commit(
            lambda contents: upkeep.record_copies(contents, key, own, found), reason
        )
        self._own = None
        last = self.record.last_copy
        if last is not None and found.lacks(last):
            log.error(
                "the newest copy %s is not good any more; %s",
                last.stamp,
                _left(found),
                extra={"vm": key},
            )

    def _held(self) -> Claim:
        if self._own is None:
            raise ValueError(f"{self._key} is not held any more")
        return self._own


def _left(found: FoundCopies) -> str:
    return (
        f"the newest good one is {found.newest.stamp}" if found.newest else "there is no good one"
    )
