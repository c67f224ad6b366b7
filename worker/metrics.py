"""Metrics at the end of the `database` worker, where `metrics.file` wants them."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.host.errors import ExitCode, VmBackupError

if TYPE_CHECKING:
    from shared.command_line import Invocation

log: Final = logging.getLogger(__name__)


def write_metrics(invocation: "Invocation") -> ExitCode:
    """Writes the metrics file of this host, if it is to have one.

    The exit code of what went wrong, or DONE.

    It is done last, so that backups and messages never wait for it.
    """
    configuration = invocation.configuration()
    path = configuration.metrics.file
    if path == Path():
        return ExitCode.DONE
    from shared.reports import metrics_file
    from shared.reports.whole_file import Kept

    try:
        site = invocation.site(reading=True)
        found = metrics_file.rendered(metrics_file.collected(site))
        kept = Kept(configuration.nas, site.database.head().contents)
        metrics_file.write(path, found, kept)
    except VmBackupError as error:
        hint = f" ({error.hint})" if error.hint else ""
        log.error("no metrics were written: %s%s", error.message, hint)  # noqa: TRY400
        return error.exit_code
    return ExitCode.DONE
