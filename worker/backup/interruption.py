"""What ^C, or a signal that ends the worker, leaves of backups: said when everything is undone."""

import logging
from typing import Final

from shared.host.errors import VmBackupError
from shared.host.logs import NOTICE
from shared.site import Site
from shared.state.rules import unfinished
from worker.report import Report

log: Final = logging.getLogger(__name__)


def say_what_is_left(site: Site, report: Report) -> None:
    """Says of each VM whose backup was interrupted what is left, and what becomes of it.

    For whoever sits at the terminal; the log has it, too.
    """
    over = {*report.done, *report.failed, *report.deferred, *report.postponed}
    interrupted = [key for key in report.begun if key not in over]
    try:
        vms = site.database.head().contents.vms if interrupted else {}
    except VmBackupError as error:
        log.log(NOTICE, "what is left is cleared away by the next tick: %s", error.message)
        return
    for key in interrupted:
        record = vms.get(key)
        if record is None:
            continue
        left = "; ".join(each.what for each in unfinished.of(record))
        hint = f" ({unfinished.finished_by(record)})" if left else ""
        log.log(
            NOTICE,
            "its backup was interrupted: no copy was made, and %s%s. It is %s; the next tick "
            "tries again",
            left or "nothing of it is left",
            hint,
            record.status,
            extra={"vm": key},
        )
    if not interrupted:
        log.log(NOTICE, "interrupted: no backup was under way, and nothing is left")
