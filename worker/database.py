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
from shared.state.rules import claims, outages, unfinished
from shared.state.sessions import recovery, sweeping
from shared.state.sessions.holding import holding
from shared.state.store import protocol
from shared.state.store.operations import ListGenerations
from shared.tasks import archiving, publication
from shared.tasks.abandoned_imports import remove_abandoned
from shared.tasks.partial_files import remove_partial_files
from shared.virtualbox.power import RUNNING
from worker.backup import power_notes
from worker.backup.work import Work, put_back
from worker.report import Report, start
from worker.tell import tell_too

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
    if claims.ownerless(contents):
        contents = recovery.free_ownerless(database, "its session is over", "database")
    recovery.recover_lease(database)
    for row in contents.unusable:
        log.error("%s", row.message, extra={"vm": row.key} if row.section == "vms" else {})
        report.failed.append(row.key)
    if power_notes.take_over(site):
        contents = database.head().contents
    contents = _finish(site, contents, report)
    if live := recovery.live_sessions(contents):
        silent = recovery.watch_silent(database, live, database.version.lease_seconds)
        if recovery.expire(database, silent, "database"):
            contents = _finish(site, database.head().contents, report)
    report.failed.extend(remove_abandoned(site))
    if claims.without_abandoned(contents) != contents:  # an older program has ended that session
        reason = "records of copies that were taken in"
        contents = database.commit_once(claims.without_abandoned, reason, "database").contents
    _tidy(site, contents)
    return report


def _finish(site: Site, contents: Contents, report: Report) -> Contents:
    """Brings to an end what dead sessions had begun.

    Power states, publications, moves, partial files. Returns the contents afterwards.
    """
    _bring_back(site, contents, report)
    _tell_of_what_was_left(site, contents)
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


def _bring_back(site: Site, contents: Contents, report: Report) -> None:
    """Undoes what backups that died did to this host's VMs: power states, snapshots, clones."""
    for record in contents.vms.values():
        if record.power is None or record.claim is not None or record.node != site.node:
            continue
        try:
            if unfinished.is_foreign(record):
                _leave(site, record, record.power, keep=False)
            elif _is_gone(site, record):
                _leave(site, record, record.power, keep=True)
            else:
                _undo(site, record, record.power)
            report.done.append(record.key)
        except VmBackupError as error:
            log.error(  # noqa: TRY400
                "not back in its state yet: %s; the next tick tries again",
                error.message,
                extra={"vm": record.key},
            )
            report.failed.append(record.key)


def _is_gone(site: Site, record: VmRecord) -> bool:
    """Whether a VM that a backup stopped is not on this host any more: then nobody can start it."""
    stopped = record.power is not None and record.power.method in outages.OUTAGES
    return stopped and bool(record.missing_since) and record.uuid not in site.inventory()


def _leave(site: Site, record: VmRecord, power: Power, *, keep: bool) -> None:
    """Says and commits that nobody undoes what a backup did to a VM: it is not on its host.

    With `keep` it is said again when this host lists the VM again.
    """

    def change(contents: Contents) -> Contents:
        contents = unfinished.leave_power(contents, [record.key])
        after = contents.vms.get(record.key)
        if keep or after is None or after.power_left is None:
            return contents
        return unfinished.without_power_left(contents, record.key, after.power_left)

    what = unfinished.may_remain(record, power)
    log.warning("not undone: %s", what, extra={"vm": record.key})
    reason = f"{record.key} is not brought back: it is not where it was stopped"
    site.database.commit_once(change, reason, "database")


def _tell_of_what_was_left(site: Site, contents: Contents) -> None:
    """Says what nobody undoes of backups of VMs that this host lists, once, and commits that.

    A VM that runs needs nothing to be said. Where VirtualBox does not tell, the next tick asks.
    """
    for record in contents.vms.values():
        left = record.power_left
        if left is None or record.node != site.node or record.claim or record.missing_since:
            continue
        try:
            runs = site.vboxmanage.info(record.uuid).state in RUNNING
        except VmBackupError as error:
            log.info("whether it runs is not known: %s", error.message, extra={"vm": record.key})
            continue
        if left.method not in outages.OUTAGES or not runs:
            what = unfinished.may_remain(record, left)
            log.warning("not undone: %s", what, extra={"vm": record.key})
        site.database.commit_once(
            partial(unfinished.without_power_left, key=record.key, left=left),
            f"{record.node} has {record.key} again",
            "database",
        )


def _undo(site: Site, record: VmRecord, power: Power) -> None:
    log.warning(
        "undoing what a backup that died did to it: %s", power.method, extra={"vm": record.key}
    )
    start = partial(claims.grant, key=record.key, purpose="power", floor=site.floor(record.key))
    with (
        site.database.session("database") as session,
        holding(session, start, f"bring {record.key} back") as held,
    ):
        put_back(Work(site, held, site.policy(held.record)), power)
        held.release(f"{record.key} is as it was found")


def _publish(site: Site, record: VmRecord) -> bool:
    log.warning("finishing the publication that a crashed worker began", extra={"vm": record.key})
    return publication.resume(site, record.key, "database")


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
    database.keep_readable(site.configuration.state.readable)
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
    their partial files, breaks a stale lease, repairs vmtool-statedb, and removes what restores and
    rehearsals of this host left that were killed. Watches sessions of other hosts for up to the
    lease time before it judges them. Then it does what `tell` does.
    """
    try:
        code = start(invocation, "database", run)
    except VmBackupError:
        tell_too(invocation)
        raise
    tell_too(invocation)
    return code


if __name__ == "__main__":
    from worker.cli import program

    program.main(["database", *sys.argv[1:]])
