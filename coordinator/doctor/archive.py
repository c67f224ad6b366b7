"""Where is the archive, and is it a good place?"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from coordinator.doctor.result import Check, failed
from shared.copies.archive_location import prove_apart
from shared.copies.archive_marker import is_elsewhere
from shared.host.errors import NasError, VmBackupError
from shared.nas.mount import is_there, mount_of, mount_table
from shared.nas.overlap import Relation, relations
from shared.state.record_fields import is_directory_name
from shared.tasks.vm_copies import require_archived

if TYPE_CHECKING:
    from shared.host.configuration import Nas
    from shared.site import Site

_NAME = "NAS: archive"


def examine(site: "Site") -> Iterator[Check]:
    """One line: where the archive really is, and what is wrong with it.

    Writes a file and removes it. Raises OSError.
    """
    nas = site.configuration.nas
    try:
        _ = site.archive
        if not is_there(nas.archive, nas.probe_seconds):
            yield Check(
                _NAME,
                "ok",
                f"{nas.archive} is not there yet: the first `vmbackup-admin archive` makes it",
            )
            return
        prove_apart(nas)
    except VmBackupError as error:
        yield failed(_NAME, error)
        return
    if shared := _vms_in_the_way(site):
        hint = (
            "none of these can be archived: on all hosts, name another archive directory, "
            "and move there what is of archived VMs"
        )
        yield Check(
            _NAME,
            "fail",
            f"{nas.archive} is, holds, or is in the directory of {', '.join(shared)}",
            hint,
        )
    elif absent := _missing(site):
        hint = (
            "is the right archive mounted? `vmbackup-admin show VM` says more of each. If the "
            "copies were deleted on purpose: `vmbackup-admin forget VM` for each of them"
        )
        yield Check(
            _NAME,
            "warn",
            f"{nas.archive} lacks the copies of archived VMs: {', '.join(absent)}",
            hint,
        )
    else:
        yield Check(_NAME, "ok", _where(nas))


def _missing(site: "Site") -> list[str]:
    """The archived VMs with copies that are not in the archive."""
    missing = []
    for record in site.database.head().contents.vms.values():
        try:
            require_archived(site, record)
        except NasError:
            missing.append(record.key)
        except VmBackupError:
            continue  # what is in its record is no directory, which is said elsewhere
    return sorted(missing)


def _vms_in_the_way(site: "Site") -> list[str]:
    """The VMs whose own directories are the archive, or are in it, or hold it."""
    nas, table = site.configuration.nas, list(mount_table())
    records = [
        record
        for record in site.database.head().contents.vms.values()
        if is_directory_name(record.directory)
    ]
    apart = {Relation.APART}
    return sorted(
        record.key
        for record in records
        if relations(nas.archive, site.directory(record), table) != apart
    )


def _where(nas: "Nas") -> str:
    real = os.path.realpath(nas.archive)
    said = str(nas.archive) if real == str(nas.archive) else f"{nas.archive}, which is {real}"
    mount = mount_of(real, list(mount_table()))
    if not is_elsewhere(nas):
        return f"{said}, on the NAS"
    return (
        f"{said}, on {mount.filesystem} from {mount.source}, with its marker"
        if mount
        else f"{said}, elsewhere, with its marker"
    )
