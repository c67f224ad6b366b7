"""Partial files that dead sessions left.

Found by the mark in the VM's record, removed, and the mark taken back.
"""

import logging
from typing import Final

from shared.copies.partials import remove_partials
from shared.host.errors import VmBackupError
from shared.site import Site
from shared.state.contents import Contents
from shared.state.rules import expiry

log: Final = logging.getLogger(__name__)


def remove_partial_files(site: Site, contents: Contents, worker: str) -> list[str]:
    """Removes what dead sessions left in the directories of VMs that nobody works on.

    Returns the names of the files.

    `contents` is the newest generation that the caller has seen: partial files of claims made since
    are left alone. A directory that cannot be tidied keeps its mark: the next call tries again.
    Commits only if something was marked.
    """
    untidy = [
        record
        for record in contents.vms.values()
        if record.leftovers and record.claim is None and record.publishing is None
    ]
    live = {record.claim.number for record in contents.vms.values() if record.claim}
    live |= {record.publishing.claim for record in contents.vms.values() if record.publishing}
    removed: list[str] = []
    tidied: list[str] = []
    for record in untidy:
        directories, problems = site.all_directories(record)
        try:
            for directory, _archived in directories:
                names = remove_partials(site.files, directory, live, contents.claims_granted)
                removed += names
                for name in names:
                    log.warning(
                        "removed %s, which a crashed worker left", name, extra={"vm": record.key}
                    )
            if problems:
                raise problems[0]
            tidied.append(record.key)
        except VmBackupError as error:
            log.warning("partial files not removed: %s", error.message, extra={"vm": record.key})
    if tidied:
        site.database.commit_once(
            lambda current: expiry.without_leftovers(current, tidied),
            f"tidied {', '.join(tidied)}",
            worker,
        )
    return removed
