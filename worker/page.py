"""The page at the end of the `database` worker, where `page.file` wants it.

The hosts that have the same file take turns: each looks first whether the page that is there is
new enough. Two who find at once that it is not both write it, which does no harm.
"""

import logging
from typing import TYPE_CHECKING, Final

from shared.host.clock import TOLERANCE
from shared.host.errors import DatabaseDamagedError, ExitCode, VmBackupError
from shared.host.extras import is_here

if TYPE_CHECKING:
    from pathlib import Path

    from shared.command_line import Invocation
    from shared.site import Site

log: Final = logging.getLogger(__name__)

#: Pages are so far apart at least, whatever is committed.
_APART_SECONDS: Final = 240.0


def write_page(invocation: "Invocation", opened: "Site | None" = None) -> ExitCode:
    """Writes the page, if it is to be written; the exit code of what went wrong, or DONE.

    `opened`: the database, if it was opened a moment ago. It is opened anew for all but a look that
    says that there is nothing to do.

    It is done last, so that backups and messages never wait for it. Without the extra it is only
    missed where the configuration names a file.
    """
    from shared.reports.page import file

    configuration = invocation.configuration()
    path = file.place(configuration)
    if path is None:
        return ExitCode.DONE
    if not is_here("jinja2") and "file" not in configuration.page.model_fields_set:
        log.info("no page is written: the extra `page` is not installed")
        return ExitCode.DONE
    if opened is not None and opened.configuration is configuration and _stands(opened, path):
        return ExitCode.DONE
    try:
        site = invocation.site(reading=True)
        if not is_new_enough(site, path):
            from shared.reports.page import collecting, rendering
            from shared.reports.whole_file import Kept

            rendering.require_jinja()
            made = rendering.rendered(collecting.collected(site))
            # on the NAS it tells nobody more than the database does, whoever may look at its top
            beside = path.parent == configuration.nas.mountpoint
            kept = Kept(configuration.nas, site.database.head().contents)
            file.write(path, made, kept, site.database.root if beside else None)
    except DatabaseDamagedError as error:
        # each worker says so by itself if it lasts; an NFS host may be shown an older listing than
        # this host's other processes were a moment ago
        log.warning("the page was not written this time: %s", error.message)
    except VmBackupError as error:
        hint = f" ({error.hint})" if error.hint else ""
        log.error("the page was not written: %s%s", error.message, hint)  # noqa: TRY400
        return error.exit_code
    return ExitCode.DONE


def _stands(site: "Site", path: "Path") -> bool:
    """Whether there is nothing to do nor to say. In doubt not: who opens it anew says why."""
    try:
        return is_new_enough(site, path) and not site.database.warnings
    except VmBackupError:
        return False


def is_new_enough(site: "Site", path: "Path") -> bool:
    """Whether the page that is there tells of the newest commit, and was written lately.

    One that was written just now is new enough in any case: each page reads what is said of every
    copy, and with many hosts there is always a new commit.

    One whose time lies far ahead was written by a clock that is wrong, or this host's is.
    """
    from shared.reports.page.file import former

    before, snapshot = former(path), site.database.head()
    if before is None or before.repository != snapshot.header.repository:
        return False
    age = site.clock.now().timestamp() - before.written
    lately = -TOLERANCE.total_seconds() <= age < 60 * site.configuration.page.minutes
    return lately and (before.generation == snapshot.generation or age < _APART_SECONDS)
