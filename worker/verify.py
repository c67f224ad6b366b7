"""verify: reads copies on the NAS again, the longest unverified first, to find damage early.

Any host reads those of all. At every tick it looks whether copies are still there (`lost_copies`).
At last it rehearses what is due for that (`rehearsals`).
"""

import logging
import sys
from typing import Final

from shared import command_line
from shared.copies.catalogue import Copy
from shared.host.errors import (
    ExitCode,
    IllegalMoveError,
    LockedError,
    LockLostError,
    UnknownVmError,
    VmBackupError,
)
from shared.output import say
from shared.site import Site
from shared.state.records import VmRecord
from shared.state.sessions.session import Session
from shared.tasks import (
    due_rehearsals,
    due_verifications,
    finding_unlisted,
    verification,
    vm_copies,
)
from worker import lost_copies, unlisted_copies
from worker.allowance import Allowance
from worker.report import Report, start

log: Final = logging.getLogger(__name__)


def run(site: Site) -> Report:
    """Notes which copies have gone, and verifies what is due, as far as this host may read today.

    With nothing due it reads the newest generation, one listing of the mount point, and the few
    directories whose turn it is (`lost_copies.find`), and once a day those of which no record tells
    (`unlisted_copies.due`); with all copies in their places it commits nothing. Archived VMs whose
    directory is not in the archive are errors and cost no commit. Raises `NasError` if not one of
    several VMs' directories is there.
    """
    report = Report()
    missing = _missing(site, report)
    changed = lost_copies.find(site, report)
    others = unlisted_copies.due(site, report)
    if changed or others or _due(site, missing):
        with site.database.session("verify") as session:
            for each in changed:
                session.check()
                lost_copies.note(site, session, each, report)
            this_round = VerificationRound(site, session, report, missing)
            this_round.run()
            for record, copies in others:
                this_round.take_unlisted(record, copies)
    contents, now = site.database.head().contents, site.clock.now()
    if due_rehearsals.due(contents, site.configuration, now):
        from worker import rehearsals  # only here: it is seldom that one is due

        rehearsals.run(site, report)
    return report


def _missing(site: Site, report: Report) -> frozenset[str]:
    """The VMs among those that are due whose directory is missing in the archive, which is said."""
    found = set()
    for record in _due(site, frozenset()):
        try:
            vm_copies.require_directory(site, record)
        except VmBackupError as error:
            _failed(record.key, error, report)
            found.add(record.key)
    return frozenset(found)


def _failed(key: str, error: VmBackupError, report: Report) -> None:
    log.error(
        "cannot verify: %s%s",
        error.message,
        f" ({error.hint})" if error.hint else "",
        extra={"vm": key},
    )
    report.fail(key, error)


def plan(site: Site) -> list[str]:
    """The copies that `run` would read if there were no limit, in order: `key stamp`."""
    now = site.clock.now()
    records = (
        *_due(site, frozenset()),
        *finding_unlisted.find(site, site.database.head().contents).records,
    )
    return [
        f"{record.key} {copy.stamp}"
        for record in records
        for copy in due_verifications.due_copies(site, record, now)
    ]


def _due(site: Site, passed: frozenset[str]) -> list[VmRecord]:
    contents = site.database.head().contents
    return [
        record
        for record in due_verifications.due(contents, site.configuration, site.clock.now())
        if record.key not in passed
    ]


class VerificationRound:
    """One run of a verify worker."""

    def __init__(
        self, site: Site, session: Session, report: Report, passed: frozenset[str]
    ) -> None:
        self._site, self._session, self._report = site, session, report
        self._allowance = Allowance(
            site.configuration.host.state_directory,
            site.configuration.backup.verify_bytes,
            "verified",
        )
        self._passed = set(passed)
        self._read: set[tuple[str, str]] = set()

    def run(self) -> None:
        """Takes one copy after the other, until nothing is due or today's share is used up."""
        while due := _due(self._site, frozenset(self._passed)):
            self._session.check()
            record = due[0]
            try:
                if not self._take(record):
                    return
            except LockLostError:
                raise
            except (LockedError, IllegalMoveError, UnknownVmError) as error:
                log.info("not verified now: %s", error.message, extra={"vm": record.key})
                self._passed.add(record.key)
            except VmBackupError as error:
                _failed(record.key, error, self._report)
                self._passed.add(record.key)

    def take_unlisted(self, record: VmRecord, copies: list[Copy]) -> None:
        """Verifies these copies of which no record tells, as far as today's share reaches."""
        try:
            for copy in copies:
                self._session.check()
                if not self._allowance.take(copy.size, self._site.clock.now()):
                    log.info(
                        "today's share of backup.verify_bytes is used up; %s waits", record.key
                    )
                    return
                finding_unlisted.take_in(self._session, record)
                self._note(
                    record,
                    verification.verify_copy(self._site, self._session, record.key, copy.stamp),
                )
        except LockLostError:
            raise
        except (LockedError, IllegalMoveError, UnknownVmError) as error:
            log.info("not verified now: %s", error.message, extra={"vm": record.key})
        except VmBackupError as error:
            _failed(record.key, error, self._report)

    def _note(self, record: VmRecord, examined: verification.Examined | None) -> None:
        if examined is not None:
            (self._report.failed if examined.problem else self._report.done).append(record.key)

    def _take(self, record: VmRecord) -> bool:
        """Verifies the longest unverified copy of a VM.

        False if today's share does not reach for it.
        """
        now = self._site.clock.now()
        copies = [
            copy
            for copy in due_verifications.due_copies(self._site, record, now)
            if (record.key, copy.stamp) not in self._read
        ]
        if not copies:
            verification.settle(self._site, self._session, record.key)
            self._passed.add(record.key)
            return True
        copy = copies[0]
        if not self._allowance.take(copy.size, now):
            log.info("today's share of backup.verify_bytes is used up; %s is next", record.key)
            return False
        self._read.add((record.key, copy.stamp))
        self._note(
            record, verification.verify_copy(self._site, self._session, record.key, copy.stamp)
        )
        return True


@command_line.documented(
    example="vmbackup-worker verify\nvmbackup-worker verify --dry-run",
    codes=(ExitCode.SOME_FAILED, ExitCode.NO_DATABASE, ExitCode.LOCK_LOST, ExitCode.NAS),
)
@command_line.dry_run_option
@command_line.pass_invocation
def command(invocation: command_line.Invocation, dry_run: bool) -> ExitCode:  # noqa: FBT001 - click passes it by name
    """Read copies again that were not read for long, and compare them with their digests.

    First the VMs whose copies somebody has taken away are noted, so that they are backed up again
    (exit code 3): of a directory that is gone at once, of others within about a day. Each copy of
    any host's VMs, also one of which no record tells, is read once in `backup.verify_days` days,
    the longest unverified first, and not more than `backup.verify_bytes` a day on this host. A
    damaged copy is marked and never counts again (exit code 3); a VM whose newest copy is damaged
    is backed up again. At last copies are rehearsed where `backup.rehearse_days` is set: started
    from their copies, without their network, watched and removed (exit code 3 if one does not come
    back).
    """
    if dry_run:
        from worker import rehearsals

        site = invocation.site(reading=True)
        for line in (*plan(site), *rehearsals.plan(site)):
            say(line)
        return ExitCode.DONE
    return start(invocation, "verify", run)


if __name__ == "__main__":
    from worker.cli import program

    program.main(["verify", *sys.argv[1:]])
