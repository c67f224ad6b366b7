"""What backups that died did to the VMs of this host is undone, or told where nobody undoes it.

A record of the database says what that is; but others can write there. So a VM that was saved or
shut down is started only where this host has noted the same, and everything else that is removed
bears a mark of this host (`worker.backup.undo`).
"""

import logging
from functools import partial
from typing import Final

from shared.host.errors import VmBackupError
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import Power, VmRecord
from shared.state.rules import claims, outages, unfinished
from shared.state.sessions.holding import holding
from shared.virtualbox.power import RUNNING
from worker.backup import power_notes
from worker.backup.looks import Looks
from worker.backup.work import Work, put_back
from worker.report import Report

log: Final = logging.getLogger(__name__)


def bring_back(site: Site, contents: Contents, report: Report) -> None:
    """Undoes what backups that died did to this host's VMs: power states, snapshots, clones."""
    for record in contents.vms.values():
        if record.power is None or record.claim is not None or record.node != site.node:
            continue
        try:
            if unfinished.is_foreign(record):
                _leave(site, record, record.power, "another host did that", keep=False)
            elif _is_gone(site, record):
                _leave(site, record, record.power, "it is not on this host any more", keep=True)
            elif not _is_ours(site, record, record.power):
                _leave(site, record, record.power, "this host has not noted that", keep=True)
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


def _is_ours(site: Site, record: VmRecord, power: Power) -> bool:
    """Whether this host knows by itself that it may undo what a record says.

    A VM that may have to be started for it: by its own note. Whatever else is removed has a mark.
    """
    return (
        power.method not in outages.OUTAGES
        or power_notes.confirms(site, record.uuid, power)
        or site.vboxmanage.info(record.uuid).state in RUNNING  # then nothing is done to it
    )


def _leave(site: Site, record: VmRecord, power: Power, why: str, *, keep: bool) -> None:
    """Says and commits that nobody undoes what a backup did to a VM, and why.

    With `keep` it is said again when this host lists the VM.
    """

    def change(contents: Contents) -> Contents:
        contents = unfinished.leave_power(contents, [record.key])
        after = contents.vms.get(record.key)
        if keep or after is None or after.power_left is None:
            return contents
        return unfinished.without_power_left(contents, record.key, after.power_left)

    what = unfinished.may_remain(record, power)
    log.warning("not undone, as %s: %s", why, what, extra={"vm": record.key})
    reason = f"{record.key} is not brought back: {why}"
    site.database.commit_once(change, reason, "database")


def tell_of_what_was_left(site: Site, contents: Contents) -> None:
    """Says what nobody undoes of backups of VMs that this host lists.

    Of a snapshot and a clone once, which is committed. Of a VM that was stopped as long as it does
    not run: its operator starts it, or says that it shall stay off. Where VirtualBox does not tell,
    the next tick asks.
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
        stopped = left.method in outages.OUTAGES
        if not (stopped and runs):
            what = unfinished.may_remain(record, left)
            log.warning("not undone: %s", what, extra={"vm": record.key})
        if stopped and not runs:
            continue
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
        put_back(Work(site, held, site.policy(held.record), Looks(site)), power)
        held.release(f"{record.key} is as it was found")
