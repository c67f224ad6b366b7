"""What an operator means by VM: a name in the database, a UUID, or a directory with copies.

Copies of which no record tells have no name of their own: two VMs, or a VM with a record and one
without, may have been called the same. Then it is said, and the operator chooses.
"""

import os
from typing import TYPE_CHECKING

from shared.host.errors import UnknownVmError, UsageError, VmBackupError
from shared.host.printable import printable, quoted
from shared.output import warn
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import vm_records

if TYPE_CHECKING:
    from shared.site import Site


def choose(site: "Site", contents: Contents, text: str) -> VmRecord:
    """The record that is meant: of the database, or one made of unlisted copies.

    `text` is a key, a UUID, a directory, or for unlisted copies the name that the VM had. If a
    record has that name and there are unlisted copies of that name or of the same VM, too, the
    record is meant, and the others are told of. Raises `UsageError` if several are meant,
    `UnknownVmError` if none is, `UnusableRecordError`, `NasError`.
    """
    from shared.tasks import finding_unlisted

    try:
        record = vm_records.meant(contents, text)
    except UnknownVmError as error:
        return _without_record(site, contents, text, error)
    try:
        others = finding_unlisted.find(site, contents).records
    except VmBackupError:
        others = ()  # who needs the NAS is told there
    for other in others:
        if other.uuid.lower() == record.uuid.lower():
            whose = f"copies of {printable(record.key)} without a record are in"
            warn(f"{whose} {_places(site, other)}; for those: {quoted(other.key)}")
        elif other.name == record.name:
            warn(
                f"there are copies without a record of another VM that was called "
                f"{printable(record.name)}: {described(site, other)}; for those: "
                f"{quoted(other.key)}"
            )
    return record


def _without_record(
    site: "Site", contents: Contents, text: str, unknown: UnknownVmError
) -> VmRecord:
    from shared.tasks import finding_unlisted

    taken_in = [vm for vm in contents.vms.values() if not finding_unlisted.is_listed(vm)]
    for everywhere in (False, True):
        found = finding_unlisted.find(site, contents, everywhere=everywhere)
        meant = [each for each in (*taken_in, *found.records) if _is_meant(site, each, text)]
        if len(meant) == 1:
            return meant[0]
        if meant:
            which = "; ".join(f"{each.key} ({described(site, each)})" for each in meant)
            raise UsageError(
                f"{text!r} may be {len(meant)} things: {printable(which)}",
                hint="name the UUID or the directory, as it stands in front of the brackets",
            )
    by_directory = next(
        (vm for vm in contents.vms.values() if _normal(text) in _directories(site, vm)), None
    )
    if by_directory is not None:
        return by_directory
    if found.problems:
        unknown.hint = f"{unknown.hint}; not everywhere could be looked: {found.problems[0]}"
    raise unknown


def described(site: "Site", record: VmRecord) -> str:
    """Unlisted copies for people: the VM's name and host, and where they are."""
    return f"{record.name} of {record.node or 'an unknown host'}, in {_places(site, record)}"


def _places(site: "Site", record: VmRecord) -> str:
    from shared.tasks import finding_unlisted

    return " and ".join(map(str, finding_unlisted.paths(site, record)))


def _is_meant(site: "Site", record: VmRecord, text: str) -> bool:
    named = text in (record.key, record.name) or text.lower() == record.uuid
    return named or _normal(text) in _directories(site, record)


def _directories(site: "Site", record: VmRecord) -> list[str]:
    return [str(path) for path, _ in site.all_directories(record)[0]]


def _normal(text: str) -> str:
    return os.path.normpath(text) if text.startswith("/") else ""
