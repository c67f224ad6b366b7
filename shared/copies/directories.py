"""The directories of VMs as their records name them: which names may be one, and what is archived.

`shared.site` alone makes paths of them.
"""

import os
from collections.abc import Iterable

from shared.copies.names import final_name
from shared.host.configuration import Nas
from shared.host.errors import UnusableRecordError
from shared.host.printable import quoted
from shared.nas.reading import list_fresh
from shared.state.contents import Contents
from shared.state.record_fields import is_directory_name
from shared.state.records import VmRecord
from shared.state.states import State


def plain_directory(record: VmRecord) -> str:
    """The name of a VM's directory.

    Raises `UnusableRecordError` if it is not one plain name at the top of the NAS.
    """
    if not is_directory_name(record.directory):
        raise UnusableRecordError(
            (
                f"the record of {record.key} names {record.directory!r} as its directory, which no "
                f"program writes: no path is made of it"
            ),
            hint=(
                f"`vmbackup-admin forget {quoted(record.key)}` deletes the record, and the next "
                f"vmfind finds the VM again; no copy is touched"
            ),
        )
    return record.directory


def plain_names(contents: Contents) -> frozenset[str]:
    """The directories that VMs have at the top of the NAS, those of unusable records as well."""
    named = {record.directory for record in contents.vms.values()}
    named |= {row.directory for row in contents.unusable}
    return frozenset(filter(is_directory_name, named))


def archived(nas: Nas, records: Iterable[VmRecord]) -> list[VmRecord]:
    """The VMs whose copies must be in the archive: ARCHIVED, with copies, and not being moved.

    Without those whose last copy could not be moved and is where it was.
    """
    return [
        record
        for record in records
        if record.status == State.ARCHIVED
        and record.last_copy
        and record.moving is None
        and is_directory_name(record.directory)
        and not os.path.exists(
            nas.mountpoint / record.directory / final_name(record.last_copy.stamp, "ova")
        )
    ]


def not_in_archive(nas: Nas, records: Iterable[VmRecord]) -> list[str]:
    """The directories of archived VMs that are missing in the archive."""
    try:
        there = set(list_fresh(nas.archive))
    except (FileNotFoundError, NotADirectoryError):
        there = set()
    return [record.directory for record in archived(nas, records) if record.directory not in there]
