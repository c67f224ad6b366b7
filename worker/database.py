"""database: recovers what crashed workers left, tidies the database, repairs `vmtool-statedb`."""

import logging
import sys
from functools import partial
from typing import Final

from shared import command_line
from shared.host.errors import ExitCode, VmBackupError
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import Power, VmRecord
from shared.state.rules import claims
from shared.state.sessions import recovery, sweeping
from shared.state.sessions.holding import holding
from shared.state.store import protocol
from shared.state.store.operations import ListGenerations
from shared.tasks import archiving
from shared.tasks.partial_files import remove_partial_files
from worker.backup import publish
from worker.backup.work import Work, put_back
from worker.report import Report, start

log: Final = logging.getLogger(__name__)

#: Generations kept in `gen/`; older ones move to the history.
KEEP_GENERATIONS: Final = 256
#: Pruning starts when there are this many more, so that it is done seldom.
PRUNE_SLACK: Final = 64


def run(site: Site) -> Report:
    """One round. With nothing to recover it reads the newest generation and the view only."""
    database = site.database
    report = Report()
    contents = database.head().contents
    if recovery.expire(database, recovery.find_proven(database, contents), "database"):
        contents = database.head().contents
    recovery.recover_lease(database)
    for row in contents.unusable:
        log.error("%s", row.message, extra={"vm": row.key} if row.section == "vms" else {})
        report.failed.append(row.key)
    contents = _finish(site, contents, report)
    if live := recovery.live_sessions(contents):
        silent = recovery.watch_silent(database, live, database.version.lease_seconds)
        if recovery.expire(database, silent, "database"):
            contents = _finish(site, database.head().contents, report)
    _tidy(site, contents)
    return report


def _finish(site: Site, contents: Contents, report: Report) -> Contents:
    """Brings to an end what dead sessions had begun.

    Power states, publications, moves, partial files. Returns the contents afterwards.
    """
    _bring_back(site, contents, report)
    unfinished = [
        record
        for record in contents.vms.values()
        if record.claim is None and (record.publishing or record.moving)
    ]
    for record in unfinished:
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


def _bring_back(site: Site, contents: Contents, report: Report) -> None:
    """Undoes what backups that died did to this host's VMs: power states, snapshots, clones."""
    for record in contents.vms.values():
        if record.power is None or record.claim is not None or record.node != site.node:
            continue
        log.warning(
            "undoing what a backup that died did to it: %s",
            record.power.method,
            extra={"vm": record.key},
        )
        try:
            _undo(site, record, record.power)
            report.done.append(record.key)
        except VmBackupError as error:
            log.error(  # noqa: TRY400
                "not back in its state yet: %s; the next tick tries again",
                error.message,
                extra={"vm": record.key},
            )
            report.failed.append(record.key)


def _undo(site: Site, record: VmRecord, power: Power) -> None:
    start = partial(claims.grant, key=record.key, purpose="power", floor=site.floor(record.key))
    with (
        site.database.session("database") as session,
        holding(session, start, f"bring {record.key} back") as held,
    ):
        put_back(Work(site, held, site.configuration.policy_for(held.record.name)), power)
        held.release(f"{record.key} is as it was found")


def _publish(site: Site, record: VmRecord) -> bool:
    start = partial(claims.grant, key=record.key, purpose="publish", floor=site.floor(record.key))
    with (
        site.database.session("database") as session,
        holding(session, start, f"finish publishing {record.key}") as held,
    ):
        log.warning(
            "finishing the publication that a crashed worker began", extra={"vm": record.key}
        )
        return publish.finish(site, held)


def _move(site: Site, record: VmRecord) -> bool:
    log.warning("finishing the %s that was interrupted", record.moving, extra={"vm": record.key})
    archiving.resume(site, record.key)
    return True


def _tidy(site: Site, contents: Contents) -> None:
    database = site.database
    database.renew_view()
    for name in sweeping.sweep(database, contents):
        log.info("swept %s", name)
    database.keep_reserve(site.configuration.nas.reserve)
    if len(database.files.perform(ListGenerations())) > KEEP_GENERATIONS + PRUNE_SLACK:
        moved = database.files.run(protocol.prune(KEEP_GENERATIONS))
        log.info("moved %d old generations to the history", len(moved))


@command_line.documented(
    example="vmbackup-worker database",
    codes=(ExitCode.SOME_FAILED, ExitCode.NO_DATABASE, ExitCode.NAS),
)
@command_line.pass_invocation
def command(invocation: command_line.Invocation) -> ExitCode:
    """Recover what crashed workers left, and tidy the database.

    Frees what dead sessions held, finishes publications and moves that they had begun, removes
    their partial files, breaks a stale lease, repairs vmtool-statedb. Watches sessions of other
    hosts for up to the lease time before it judges them.
    """
    return start(invocation, "database", run)


if __name__ == "__main__":
    from worker.cli import program

    program.main(["database", *sys.argv[1:]])
