"""Rehearsals by schedule: copies of any host's VMs, the longest unrehearsed first, one a tick.

A part of the `verify` worker, which has more to do. What is found is noted as that of a rehearsal
by hand is. Killed at any moment, what it made is removed by the next `database` worker, and the VM
is still due. What is the fault of this host is no result: nothing is noted of the copy, and the VM
is left to other hosts for a day.
"""

import contextlib
import logging
import os
import shutil
from typing import Final

import psutil

from shared.copies.catalogue import Copy
from shared.copies.names import final_name
from shared.copies.space_needed import human
from shared.host.clock import is_over, timestamp
from shared.host.errors import (
    ConfigurationError,
    IllegalMoveError,
    LockedError,
    LockLostError,
    UnknownVmError,
    VmBackupError,
)
from shared.host.notes import Note
from shared.nas.reading import read_file
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import readers
from shared.tasks import due_rehearsals, rehearsal
from shared.tasks.rehearsal import RehearsalTurn
from shared.tasks.rehearsal_trial import Wishes, place
from shared.virtualbox.settings import MAXIMUM_BYTES, SettingsError, parse_machine
from worker.allowance import Allowance
from worker.report import Report

log: Final = logging.getLogger(__name__)

#: What is left alone: on the disk, where VMs of users may grow, and of the memory.
SPARE_BYTES: Final = 1 << 30
SPARE_MEMORY: Final = 512 << 20
#: After so many copies with which this host could do nothing, the next tick goes on.
_FAILURES: Final = 2
#: For so long this host leaves a VM to others with whose copy it could do nothing.
_PAUSE_SECONDS: Final = 86400


def run(site: Site, report: Report) -> None:
    """Rehearses what is due first, as far as this host may, can, and has its share of the day left.

    One copy, whatever the result.
    """
    due = _due(site, set())
    if not due:
        return
    try:
        with rehearsal.alone(site) as turn:
            _run(site, turn, report)
    except LockLostError:
        raise
    except LockedError as error:
        log.info("nothing is rehearsed now: %s", error.message)
    except VmBackupError as error:
        _cannot(due[0], error, report)


def _run(site: Site, turn: RehearsalTurn, report: Report) -> None:
    host, limit = site.configuration.host, site.configuration.backup.verify_bytes
    allowance = Allowance(host.state_directory, limit, "rehearsed")
    passed: set[str] = set()
    failures = 0
    while failures < _FAILURES and (due := _due(site, passed)):
        record = due[0]
        passed.add(record.key)
        if exporting := exports_here(site.database.head().contents, site.node):
            log.info("nothing is rehearsed now: this host exports %s", ", ".join(exporting))
            return
        share = _Share(allowance, site)
        try:
            if _take(site, turn, record, share, report):
                return
        except LockLostError:
            raise
        except (LockedError, IllegalMoveError, UnknownVmError) as error:
            log.info("not rehearsed now: %s", error.message, extra={"vm": record.key})
        except VmBackupError as error:
            _cannot(record, error, report)
            if share.taken:
                failures += 1
                _leave_to_others(site, record)


def plan(site: Site) -> list[str]:
    """What `run` would rehearse if nothing hindered it, in order: `rehearse KEY STAMP`."""
    return [
        f"rehearse {record.key} {record.last_copy.stamp}"
        for record in _due(site, set())
        if record.last_copy is not None
    ]


def _due(site: Site, passed: set[str]) -> list[VmRecord]:
    contents, now = site.database.head().contents, site.clock.now()
    found = due_rehearsals.due(contents, site.configuration, now)
    left = {} if not found else _left_to_others(site)
    return [record for record in found if record.key not in passed and record.uuid not in left]


def _take(
    site: Site, turn: RehearsalTurn, record: VmRecord, share: "_Share", report: Report
) -> bool:
    """Rehearses the newest copy of a VM. True if nothing else is to be rehearsed at this tick."""
    copy = due_rehearsals.newest_copy(site, record)
    if copy is None:
        return False  # whoever looks for lost and damaged copies tells of it
    if hindrance := unfit(site, copy):
        log.warning("not rehearsed on this host: %s", hindrance, extra={"vm": record.key})
        return False
    if hindrance := occupied(copy):
        log.info("not rehearsed now: %s", hindrance, extra={"vm": record.key})
        return False
    if not share.reaches(copy.size):
        log.info("today's share of backup.verify_bytes is used up; %s is next", record.key)
        return True
    wishes = Wishes(boot=True, wait_seconds=site.policy(record).rehearse_seconds)
    with site.database.session(readers.REHEARSER) as reading:
        reading.read_copy(record.uuid, copy.stamp, alone=True)
        reading.doing.vm, reading.doing.phase = record.key, readers.REHEARSER
        done = rehearsal.rehearse(turn, site, record, copy, wishes, share.take)
    _tell(record.key, done, report)
    return True


class _Share:
    """What a rehearsal takes of the day's share: nothing unless the copy is read in full.

    `taken` is whether anything was begun with the copy.
    """

    def __init__(self, allowance: Allowance, site: Site) -> None:
        self._allowance, self._clock, self._size = allowance, site.clock, 0
        self.taken = self._counted = False

    def reaches(self, size: int) -> bool:
        """Whether today's share reaches for so many bytes."""
        self._size = size
        return self._allowance.reaches(size, self._clock.now())

    def take(self, what: str, _percent: float) -> None:
        """Takes them, if they are read and not taken. Raises `ConfigurationError`."""
        self.taken = True
        if what == "verify" and not self._counted:
            self._counted = True
            self._allowance.take(self._size, self._clock.now())


def _cannot(record: VmRecord, error: VmBackupError, report: Report) -> None:
    log.error("cannot rehearse: %s", error.message, extra={"vm": record.key})
    report.fail(record.key, error)


def _left_to_others(site: Site) -> dict[str, str]:
    """The VMs with whose copies this host could do nothing of late, by UUID, and when."""
    with contextlib.suppress(ConfigurationError):
        now = site.clock.now()
        return {
            uuid: when
            for uuid, when in _note(site).read().items()
            if isinstance(when, str) and not is_over(now, when, _PAUSE_SECONDS)
        }
    return {}


def _leave_to_others(site: Site, record: VmRecord) -> None:
    when = timestamp(site.clock.now())
    try:
        _note(site).write({**_left_to_others(site), record.uuid: when})
    except ConfigurationError as error:
        log.warning("%s", error.message)


def _note(site: Site) -> Note:
    directory = site.configuration.host.state_directory
    return Note(directory / "rehearsals-left.json", "which VMs could not be rehearsed here")


def _tell(key: str, done: rehearsal.Rehearsal, report: Report) -> None:
    if done.good:
        log.info("%s comes back: %s", done.stamp, done.result.observed, extra={"vm": key})
        report.done.append(key)
    else:
        log.error("%s does not come back: %s", done.stamp, done.result.result, extra={"vm": key})
        report.failed.append(key)


def exports_here(contents: Contents, node: str) -> list[str]:
    """The VMs of which a live worker of this host makes a copy now."""
    return sorted(
        record.key
        for record in contents.vms.values()
        if record.claim is not None
        and record.claim.purpose == "backup"
        and (row := contents.sessions.get(record.claim.session)) is not None
        and (row.state, row.node) == ("live", node)
    )


def unfit(site: Site, copy: Copy) -> str:
    """Why this host is none to rehearse a copy, before somebody changes that; empty: it is one."""
    if not os.access(copy.directory, os.W_OK):
        return f"its user may not write to {copy.directory}, where the result belongs"
    base = place(site, Wishes())
    existing = next(parent for parent in (base, *base.parents) if parent.exists())
    room, needed = shutil.disk_usage(existing).free, rehearsal.needed_bytes(copy) + SPARE_BYTES
    if room < needed:
        return (
            f"there is no room in {base}: {human(needed)} with what is left to others, "
            f"{human(room)} are free"
        )
    return ""


def occupied(copy: Copy) -> str:
    """Why what runs here, VMs of users above all, leaves no memory for the VM; empty: it does."""
    memory, free = memory_of(copy) + SPARE_MEMORY, psutil.virtual_memory().available
    if free < memory:
        return (
            f"too little memory is left by what runs here: {human(memory)} with what is left to "
            f"others, {human(free)} are free"
        )
    return ""


def memory_of(copy: Copy) -> int:
    """Bytes of memory that the VM has, by the settings beside its copy; 0 if they do not tell."""
    if copy.sidecar is None or "vbox" not in copy.sidecar.files:
        return 0
    try:
        name = final_name(copy.stamp, "vbox")
        return parse_machine(read_file(copy.directory / name, MAXIMUM_BYTES, follow=False)).memory
    except (OSError, SettingsError):
        return 0  # the rehearsal itself tells what is wrong with them
