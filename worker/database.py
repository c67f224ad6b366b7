"""database: recovers what crashed workers left, tidies the database, repairs `vmtool-statedb`."""

import logging
import sys
import time
from typing import Final

from shared import command_line
from shared.host.clock import SystemClock
from shared.host.errors import ExitCode, LockedError, VmBackupError
from shared.reports import space_history
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import expiry
from shared.state.sessions import deaths, recovery, sweeping
from shared.state.sessions.worker_ends import note_end
from shared.state.store import protocol
from shared.state.store.operations import ListGenerations
from shared.tasks.abandoned_imports import remove_abandoned
from shared.tasks.partial_files import remove_partial_files
from worker.backup import power_notes
from worker.history_bundling import keep_history
from worker.metrics import write_metrics
from worker.page import write_page
from worker.pings import alone
from worker.power_states import bring_back, tell_of_what_was_left
from worker.report import Report, start
from worker.tick import MILD

log: Final = logging.getLogger(__name__)

#: Generations kept in `gen/`; older ones move to the history.
KEEP_GENERATIONS: Final = 256
#: Pruning starts when there are this many more, so that it is done seldom.
PRUNE_SLACK: Final = 64
#: A NAS that was asked so lately is not asked again whether it answers.
_LATELY_SECONDS: Final = 5.0


def run(site: Site) -> Report:
    """One round. With nothing to recover it reads the newest generation and the view only."""
    database = site.database
    report = Report()
    contents = database.head().contents
    if recovery.expire(database, deaths.find_proven(database, contents), "database"):
        contents = database.head().contents
    if expiry.ownerless(contents):
        contents = recovery.free_ownerless(database, "its session is over", "database")
    recovery.recover_lease(database)
    for row in contents.unusable:
        log.error("%s", row.message, extra={"vm": row.key} if row.section == "vms" else {})
        report.failed.append(row.key)
    if power_notes.take_over(site):
        contents = database.head().contents
    contents = _finish(site, contents, report)
    for find in (deaths.find_here, deaths.find_silent):  # of this machine it is known sooner
        dead = find(database, deaths.live_sessions(contents))
        if recovery.expire(database, dead, "database"):
            contents = _finish(site, database.head().contents, report)
    settle_holds(site, contents)
    report.failed.extend(remove_abandoned(site))
    if expiry.without_abandoned(contents) != contents:  # an older program has ended that session
        reason = "records of copies that were taken in"
        contents = database.commit_once(expiry.without_abandoned, reason, "database").contents
    _tidy(site, contents)
    space_history.note(site)
    return report


def settle_holds(site: Site, contents: Contents) -> None:
    """Marks copies that are held, and takes the marks of holds that are over off.

    A VM on which somebody works has its turn at a later tick, one whose archive this host does not
    have at another host's. No VM without a hold is looked at.
    """
    for record in contents.vms.values():
        busy = record.claim or record.publishing or record.moving
        if not record.holds or busy:
            continue
        from shared.tasks import copy_hold  # only here: hardly any VM has a hold

        try:
            if copy_hold.is_settled(site, record):
                continue
            with site.database.session("database") as session:
                copy_hold.settle(site, session, record.key)
            log.info("its holds are settled", extra={"vm": record.key})
        except LockedError as error:
            log.info("holds: %s", error.message, extra={"vm": record.key})
        except VmBackupError as error:
            log.warning("holds not settled: %s", error.message, extra={"vm": record.key})


def _finish(site: Site, contents: Contents, report: Report) -> Contents:
    """Brings to an end what dead sessions had begun.

    Power states, publications, moves, partial files. Returns the contents afterwards.
    """
    bring_back(site, contents, report)
    tell_of_what_was_left(site, contents)
    begun = [
        record
        for record in contents.vms.values()
        if record.claim is None and (record.publishing or record.moving)
    ]
    for record in begun:
        try:
            if (_publish if record.publishing else _move)(site, record):
                report.done.append(record.key)
            else:
                report.failed.append(record.key)
        except VmBackupError as error:
            log.error(  # noqa: TRY400
                "cannot finish what a crashed worker began: %s",
                error.message,
                extra={"vm": record.key},
            )
            report.fail(record.key, error)
    if report.done or report.failed:
        contents = site.database.head().contents
    if any(record.leftovers for record in contents.vms.values()):
        remove_partial_files(site, contents, "database")
        contents = site.database.head().contents
    return contents


def _publish(site: Site, record: VmRecord) -> bool:
    from shared.tasks import publication  # only here: at most ticks nothing was interrupted

    log.warning("finishing the publication that a crashed worker began", extra={"vm": record.key})
    return publication.resume(site, record.key, "database")


def _move(site: Site, record: VmRecord) -> bool:
    from shared.tasks import archiving  # only here: at most ticks nothing was interrupted

    log.warning("finishing the %s that was interrupted", record.moving, extra={"vm": record.key})
    archiving.resume(site, record.key)
    return True


def _tidy(site: Site, contents: Contents) -> None:
    database = site.database
    database.renew_view()
    for name in (*sweeping.sweep(database, contents), *sweeping.sweep_beside(database)):
        log.info("swept %s", name)
    database.keep_reserve(site.configuration.nas.reserve)
    database.keep_readable(site.configuration.state.readable)
    if len(database.files.perform(ListGenerations())) > KEEP_GENERATIONS + PRUNE_SLACK:
        moved = database.files.run(protocol.prune(KEEP_GENERATIONS))
        log.info("moved %d old generations to the history", len(moved))
    keep_history(site, contents)


@command_line.documented(
    example="vmbackup-worker database",
    codes=(ExitCode.SOME_FAILED, ExitCode.NO_DATABASE, ExitCode.NAS),
)
@command_line.pass_invocation
def command(invocation: command_line.Invocation) -> ExitCode:
    """Recover what crashed workers left, and tidy the database.

    Frees what dead sessions held, finishes publications and moves that they had begun, removes
    their partial files, breaks a stale lease, repairs vmtool-statedb, and removes what restores and
    rehearsals of this host left that were killed. Watches sessions of other hosts for up to the
    lease time before it judges them, those of an earlier boot of this one for three heartbeats.
    Then it does what `tell` does, writes `metrics.file` and, where it is due, `page.file`, and
    pings if no `run` has started it.
    """
    with alone(invocation, "database") as ended:
        code = _work(invocation)
        ended(code)
    return code


def _work(invocation: command_line.Invocation) -> ExitCode:
    opened: list[Site] = []
    began = time.monotonic()

    def work(site: Site) -> Report:
        opened.append(site)
        return run(site)

    try:
        code = start(invocation, "database", work)
    except VmBackupError:
        _tell_too(invocation)
        raise
    _tell_too(invocation)
    wrong = [write_metrics(invocation)]
    lately = time.monotonic() - began < _LATELY_SECONDS
    wrong.append(write_page(invocation, opened[0] if opened and lately else None))
    failed = [each for each in wrong if each != ExitCode.DONE]
    return _not_written(invocation, code, failed[0]) if failed else code


def _tell_too(invocation: command_line.Invocation) -> None:
    """Tells at the end of this worker, whose exit code stays its own."""
    try:
        if invocation.configuration().notify:
            from worker.tell import start_telling  # only here: many hosts have no targets

            start_telling(invocation)
    except VmBackupError as error:
        log.info("nothing was told: %s", error.message)


def _not_written(
    invocation: command_line.Invocation, code: ExitCode, because: ExitCode
) -> ExitCode:
    """Notes, for `check`, that this worker failed after all; it says so itself only in the log."""
    configuration = invocation.configuration()
    nas_failed = ExitCode.NAS if because == ExitCode.NAS else ExitCode.FAILURE
    code = nas_failed if code in MILD else code
    host, nas = configuration.host, configuration.nas
    note_end(host.state_directory, nas.mountpoint, "database", code, SystemClock())
    return code


if __name__ == "__main__":
    from worker.cli import program

    program.main(["database", *sys.argv[1:]])
