"""Copies of which no record tells, for the verify worker: once a day each host looks for them.

They are few, but there is no record that could say when their turn is: that stands in the sidecars
alone. A note in the state directory says when this host last looked.
"""

import logging
from typing import Final

from shared.copies.catalogue import Copy
from shared.host.errors import ConfigurationError, VmBackupError
from shared.host.notes import Note
from shared.site import Site
from shared.state.records import VmRecord
from shared.state.sessions.worker_ends import unlisted_note
from shared.tasks import due_verifications, finding_unlisted, vm_copies
from worker.report import Report

log: Final = logging.getLogger(__name__)


def due(site: Site, report: Report) -> list[tuple[VmRecord, list[Copy]]]:
    """The unlisted copies that were not read for too long, by VM; none if this host looked today.

    Commits nothing. One that cannot be looked at, or is known to be damaged, is logged and noted
    in `report`.
    """
    today = site.clock.now().strftime("%Y-%m-%d")
    host, nas = site.configuration.host, site.configuration.nas
    note = Note(
        unlisted_note(host.state_directory, nas.mountpoint),
        "when copies without a record were looked for",
    )
    try:
        if note.read().get("day") == today:
            return []
        note.write({"day": today})
    except ConfigurationError as error:
        log.warning("copies without a record are not looked for: %s", error.message)
        return []
    found = []
    for record in finding_unlisted.find(site, site.database.head().contents).records:
        try:
            _tell_damaged(site, record, report)
            if copies := due_verifications.due_copies(site, record, site.clock.now()):
                found.append((record, copies))
        except VmBackupError as error:
            log.error("cannot look at its copies: %s", error.message, extra={"vm": record.key})  # noqa: TRY400
            report.fail(record.key, error)
    return found


def _tell_damaged(site: Site, record: VmRecord, report: Report) -> None:
    """Says it again: there is no record by which `check` and `status` could. Raises `NasError`."""
    for copy, _ in vm_copies.copies(site, record):
        if copy.sidecar and copy.sidecar.damage:
            what = "the copy %s is damaged: %s"
            log.error(what, copy.stamp, copy.sidecar.damage, extra={"vm": record.key})
            report.failed.append(record.key)
