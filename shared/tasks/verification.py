"""Verifying copies: each is read again in full, and the result is written into its sidecar.

A damaged copy is marked there and from then on never counts; nothing is ever deleted. Copies that
took blocks over from it are suspect, and are read next (`shared.tasks.suspicion`). Which copies
are left is committed: if its newest good copy is gone, the VM has to be backed up again. All of it
happens under a claim on the VM, one claim for each copy, so that a backup which is due waits for
one copy at most. Killed at any point, the next verification finds the copy unverified.
"""

import errno
import hashlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from shared.copies import catalogue, first_reading, sidecar_files
from shared.copies.names import SIDES, Suffix, final_name
from shared.copies.sidecar import Sidecar
from shared.copies.sidecar_fields import Verified
from shared.host.clock import timestamp
from shared.host.errors import CopyError, NasError
from shared.host.rate_limit import UNLIMITED, Pace
from shared.nas.reading import look, present
from shared.ova.check import OvaCheck, Sink, check_ova, sha256_of
from shared.site import Site
from shared.state.rules import vm_records
from shared.state.sessions.holding import Holding
from shared.state.sessions.session import Session
from shared.tasks import commit_reasons, suspicion, vm_copies
from shared.tasks.vm_copies import copies, differs, look_up_copies

log: Final = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

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
        try:
            problem, read = _examine(site, session, copy, progress)
        except (KeyboardInterrupt, SystemExit):
            session.tidied.add(held.claim.number)  # nothing is written while it is read
            raise
        if copy.sidecar is not None:
            if problem and not copy.sidecar.damage:
                suspicion.spread(site, held, copy.sidecar)
            verified = Verified(timestamp(site.clock.now()), problem or _GOOD)
            marked = replace(copy.sidecar, verified=verified, suspect="")
            if read is not None and not marked.read_in_full:
                held.check()
                first_reading.note(site.files, copy.directory, marked, read, held.claim.number)
            else:
                _mark(site, held, copy, marked)
        _settle(site, held, commit_reasons.verified(key, stamp, problem or _GOOD))
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


def _examine(
    site: Site, session: Session, copy: catalogue.Copy, progress: Progress
) -> tuple[str, OvaCheck | None]:
    """Like `examine`, while the session lives; and what its `.ova` is, if nothing is wrong."""

    def report(done: int, total: int) -> None:
        session.check()
        session.doing.at(done, total)
        progress(done, total)

    return _examine_all(copy, report, site.pace())


def examine(
    copy: catalogue.Copy,
    report: Progress = lambda _done, _total: None,
    pace: Pace = UNLIMITED,
) -> str:
    """What is wrong with the copy, every byte of it read at this pace; empty if nothing is.

    Writes nothing. Raises `NasError` if the NAS as a whole is in trouble.
    """
    return _examine_all(copy, report, pace)[0]


def _examine_all(copy: catalogue.Copy, report: Progress, pace: Pace) -> tuple[str, OvaCheck | None]:
    """The same, and what its `.ova` is, if nothing is wrong."""
    if copy.sidecar is None:
        return copy.problem, None
    for _ in range(_READS):
        try:
            found = check(copy, report, pace=pace)
            check_side_files(copy, pace=pace)
        except CopyError as error:
            return error.message, None
        except NasError as error:
            if not (isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO):
                raise
            sidecar_files.read(
                copy.directory, copy.stamp
            )  # raises if the NAS as a whole is in trouble, and not this file
        else:
            return "", found
    return "it cannot be read (input/output error), although the NAS answers", None


def check(
    copy: catalogue.Copy,
    progress: Progress = lambda _done, _total: None,
    sinks: Mapping[str, Sink] = MappingProxyType({}),
    pace: Pace = UNLIMITED,
) -> OvaCheck:
    """Reads the `.ova` of a copy in full; `sinks` get members' bytes, by name, meanwhile.

    Of a copy that nobody has read in full yet, every byte is compared with its digest in the index.

    Raises `CopyError` that says what is wrong with it, `NasError` if it cannot be read.
    """
    if copy.sidecar is None:
        raise CopyError(copy.problem)
    if copy.size != copy.sidecar.size:
        raise CopyError(f"its .ova has {copy.size} bytes instead of {copy.sidecar.size}")
    if not copy.sidecar.read_in_full:
        return first_reading.check_first(
            copy.directory, copy.sidecar, progress=progress, sinks=sinks, pace=pace
        )
    name = final_name(copy.stamp, "ova")
    found = check_ova(copy.directory, name, progress=progress, sinks=sinks, pace=pace)
    if found.sha256 != copy.sidecar.sha256:
        raise CopyError("its SHA-256 is not the one that it was published with")
    return found


def check_side_files(
    copy: catalogue.Copy, wanted: Collection[Suffix] = SIDES, pace: Pace = UNLIMITED
) -> None:
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
        if sha256_of(copy.directory, name, pace=pace) != side.sha256:
            raise CopyError(f"the SHA-256 of {name} is wrong")


def check_read_file(copy: catalogue.Copy, suffix: Suffix, data: bytes) -> None:
    """Raises `CopyError` unless these bytes, which were read of a side file, are what it holds."""
    side = copy.sidecar.files.get(suffix) if copy.sidecar else None
    if side is not None and hashlib.sha256(data).hexdigest() != side.sha256:
        raise CopyError(f"the SHA-256 of {final_name(copy.stamp, suffix)} is wrong")


def _mark(site: Site, held: Holding, copy: catalogue.Copy, sidecar: Sidecar) -> None:
    """Replaces the sidecar of a copy, after a look whether the VM is still held."""
    held.check()
    sidecar_files.replace(site.files, copy.directory, sidecar, held.claim.number)


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
