"""Whether the copies that the database counts on are still on the NAS.

A cheap look, long before they are due to be read again.

At every tick one listing of the mount point says whether the directory of a VM is gone. What lies
in the directories is looked up about once a day on each host: a VM has one of the ten-minute slots
of the day, and a tick looks at those whose slots have begun since the last one. A note in the state
directory says when that was; without it the host begins with the slot that comes next.
"""

import contextlib
import json
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from zlib import crc32

from shared.host.documents import load, read_own
from shared.host.errors import (
    IllegalMoveError,
    LockedError,
    LockLostError,
    NasError,
    UnknownVmError,
    VmBackupError,
)
from shared.nas.nas_errors import reported
from shared.nas.reading import list_fresh
from shared.site import Site
from shared.state.record_fields import is_directory_name
from shared.state.records import VmRecord
from shared.state.sessions.session import Session
from shared.state.states import State
from shared.tasks import due_verifications, verification
from shared.tasks.vm_copies import differs, look_up_copies, require_archived
from worker.report import Report

log: Final = logging.getLogger(__name__)

SLOT_SECONDS: Final = 600
SLOTS: Final = 144  # of a day


@dataclass(frozen=True, slots=True)
class Changed:
    """A VM of whose copies the database says something else than its directory.

    `lost`: its newest one does not count any more.
    """

    record: VmRecord
    lost: bool


def find(site: Site, report: Report) -> list[Changed]:
    """The VMs, of any host, of whose copies the database says something else than the NAS.

    Commits nothing.

    One that cannot be looked at is logged and noted in `report`; one that has failed there already
    is passed over. Raises `NasError` if of several VMs not one directory is there.
    """
    # with no copy any more, but once looked at: somebody may have put one back
    known = [
        record
        for record in site.database.head().contents.vms.values()
        if record.last_copy is not None or record.verified
    ]
    missing, slots, now = (
        _missing(site, known),
        Slots(site.configuration.host.state_directory, site.database.version.repository),
        site.clock.now(),
    )
    begun = slots.begun(now)
    changed = []
    for record in known:
        gone = _is_wanted(record) and record.directory in missing
        if (
            due_verifications.is_free(record)
            and record.key not in report.failed
            and (gone or slot_of(record) in begun)
        ):
            with _reporting(record.key, report):
                require_archived(site, record)
                found = look_up_copies(site, record)
                if differs(record, found):
                    changed.append(Changed(record, found.lacks(record.last_copy)))
                    if gone:
                        log.error(
                            "its directory %s is gone from the NAS",
                            site.directory(record),
                            extra={"vm": record.key},
                        )
    slots.note(now)
    return changed


def note(site: Site, session: Session, changed: Changed, report: Report) -> None:
    """Commits which copies the VM still has.

    If its newest one is gone, that is logged, and the VM noted as failed.
    """
    key, known = changed.record.key, changed.record.last_copy
    with _reporting(key, report):
        verification.settle(site, session, key)
        now = site.database.head().contents.vms.get(key)
        if (
            changed.lost
            and now is not None
            and known is not None
            and (now.last_copy is None or now.last_copy.stamp != known.stamp)
        ):
            report.failed.append(key)


def _is_wanted(record: VmRecord) -> bool:
    """Whether the VM's directory should be below the mount point."""
    return (
        record.last_copy is not None
        and record.status != State.ARCHIVED
        and is_directory_name(record.directory)
    )


def _missing(site: Site, known: list[VmRecord]) -> set[str]:
    """The directories that should be below the mount point, and are not."""
    wanted = {record.directory for record in known if _is_wanted(record)}
    mountpoint = site.configuration.nas.mountpoint
    with reported("list the NAS"):
        missing = wanted.difference(list_fresh(mountpoint))
    if len(wanted) > 1 and missing == wanted:
        raise NasError(
            (
                f"not one of the {len(wanted)} directories of VMs with copies is in {mountpoint}: "
                f"nothing was noted of that"
            ),
            hint=(
                "if they were moved away by mistake, put them back; if that is meant, "
                "`vmbackup-admin verify VM` notes it for one VM"
            ),
        )
    return missing


@contextlib.contextmanager
def _reporting(key: str, report: Report) -> Iterator[None]:
    try:
        yield
    except LockLostError:
        raise
    except (LockedError, IllegalMoveError, UnknownVmError) as error:
        log.info("its copies were not looked at now: %s", error.message, extra={"vm": key})
    except VmBackupError as error:
        log.error(  # noqa: TRY400
            "cannot look at its copies: %s%s",
            error.message,
            f" ({error.hint})" if error.hint else "",
            extra={"vm": key},
        )
        report.fail(key, error)


def slot_of(record: VmRecord) -> int:
    """The slot of the day in which a VM's directory is looked at.

    The same on all hosts, spread evenly.
    """
    return crc32(record.uuid.encode()) % SLOTS


class Slots:
    """Which slots have begun since this host last looked at a repository, a day's at most.

    A note in the state directory, which several repositories may share, says when that was.
    """

    def __init__(self, state_directory: Path, repository: str) -> None:
        self._note = state_directory / f"looked-at-{repository}.json"

    def begun(self, now: datetime) -> frozenset[int]:
        """The slots to look at now; none in the slot of the note.

        With a note from the future, of a clock that was wrong: this one.
        """
        current, last = _count(now), self._last()
        if last is None:
            last = current if self.note(now) else current - 1
        first = max(last + 1, current - SLOTS + 1) if last <= current else current
        return frozenset(number % SLOTS for number in range(first, current + 1))

    def note(self, now: datetime) -> bool:
        """Writes down that the slots up to now were looked at.

        False, and a warning, if that cannot be written.
        """
        current = _count(now)
        if self._last() == current:
            return True
        temporary = self._note.with_name(f"{self._note.name}.{secrets.token_hex(4)}")
        try:
            temporary.write_text(json.dumps({"slot": current}), encoding="utf-8")
            os.replace(temporary, self._note)
        except OSError as error:
            log.warning(
                "cannot note in %s which VMs' directories were looked at: %s",
                self._note.parent,
                error.strerror,
            )
            return False
        return True

    def _last(self) -> int | None:
        try:
            return int(load(read_own(self._note))["slot"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _count(now: datetime) -> int:
    return int(now.timestamp()) // SLOT_SECONDS
