"""What hosts see of their VMs, taken over into the database.

New, renamed, moved, missing, used, out of order. Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from shared.nas.spelling import folded
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import unfinished, vm_records
from shared.state.rules.copies import FoundCopies, with_copies
from shared.state.states import INITIAL, Event, allowed, move

#: How the note of a VM begins that its host lists, and VirtualBox cannot use.
_CANNOT_USE: Final = "VirtualBox cannot use it"


@dataclass(frozen=True, slots=True)
class Sighting:
    """A VM that a host lists. `directory` is the place for its copies, should it be new.

    `groups`, `wish` and `left_out`: as in `VmRecord`.
    `copies` are those that it has there already: it had a record before.
    """

    uuid: str
    name: str
    directory: str
    groups: tuple[str, ...] = ()
    wish: str = ""
    left_out: str = ""
    copies: FoundCopies | None = None


def sight(contents: Contents, node: str, sightings: Iterable[Sighting], when: str) -> Contents:
    """Takes over what `node` lists: VMs that are new, renamed, moved, or missing."""
    listed = {sighting.uuid: sighting for sighting in sightings}
    kept = [row for row in contents.unusable if row.section == "vms"]
    taken = {folded(record.directory) for record in contents.vms.values()}
    taken |= {folded(row.directory) for row in kept}
    contents = _identify(contents, node, listed, taken)
    known = {record.uuid for record in contents.vms.values()} | {row.uuid for row in kept}
    for record in list(contents.vms.values()):
        if record.uuid in listed:
            contents = _seen(contents, record, node, listed[record.uuid])
        elif record.taken_in_by:
            continue  # no host has said that it has this VM
        elif record.uuid and record.node == node and record.missing_since is None:
            contents = contents.with_vm(replace(record, missing_since=when))
        elif record.also_on == node:
            contents = contents.with_vm(replace(record, also_on=None))
    for sighting in listed.values():
        if sighting.uuid not in known:
            key = vm_records.free_key(contents, sighting.name, node, sighting.uuid)
            directory = _free_directory(taken, sighting)
            new = VmRecord(key, sighting.name, sighting.uuid, node, directory, INITIAL, found=when)
            if sighting.copies is not None and directory == sighting.directory:
                new = with_copies(new, sighting.copies)
            contents = contents.with_vm(_described(new, sighting))
    return contents


def _identify(
    contents: Contents, node: str, listed: Mapping[str, Sighting], taken: set[str]
) -> Contents:
    """Gives records of version 1.0, which knew names only, the UUID and host of their VM."""
    known = {record.uuid for record in contents.vms.values()}
    for sighting in listed.values():
        record = contents.vms.get(sighting.name)
        if record is not None and not record.uuid and sighting.uuid not in known:
            directory = _free_directory(taken, sighting)
            contents = contents.with_vm(
                replace(
                    record, uuid=sighting.uuid, node=node, directory=directory, missing_since=None
                )
            )
    return contents


def _seen(contents: Contents, record: VmRecord, node: str, sighting: Sighting) -> Contents:
    if record.taken_in_by:
        rest = contents.without_vm(record.key)
        key = vm_records.free_key(rest, sighting.name, node, sighting.uuid)
        found = replace(record, key=key, name=sighting.name, node=node, taken_in_by="")
        return rest.with_vm(_described(found, sighting))
    if record.node != node:
        if record.missing_since is None or record.claim is not None:
            return (
                contents.with_vm(replace(record, also_on=node))
                if record.also_on != node
                else contents
            )
        power = unfinished.noted_by(record.power, record.node)
        record = replace(record, node=node, also_on=None, power=power)
    updated = _described(replace(record, missing_since=None, name=sighting.name), sighting)
    if sighting.name == contents.vms[record.key].name:
        return contents.with_vm(updated)
    remaining = contents.without_vm(record.key)
    return remaining.with_vm(
        replace(updated, key=vm_records.free_key(remaining, sighting.name, node, sighting.uuid))
    )


def _described(record: VmRecord, sighting: Sighting) -> VmRecord:
    """With what its host says of it now. One that is left out stands in no line."""
    record = replace(record, groups=sighting.groups, wish=sighting.wish, left_out=sighting.left_out)
    return replace(record, queued=None, waiting="") if record.left_out else record


def _free_directory(taken: set[str], sighting: Sighting) -> str:
    """The name of a directory that is not `taken`, and is from now on."""
    free = folded(sighting.directory) not in taken
    directory = sighting.directory if free else f"{sighting.directory}~{sighting.uuid[:8]}"
    taken.add(folded(directory))
    return directory


def apply_events(contents: Contents, events: Mapping[str, tuple[Event, ...]]) -> Contents:
    """Applies what the notifier saw, by UUID.

    An event that the state does not allow any more is passed over: the VM moved on.
    """
    for record in list(contents.vms.values()):
        if record.claim is not None or record.publishing is not None or record.power is not None:
            continue
        status = record.status
        for event in events.get(record.uuid, ()):
            status = move(status, event) if allowed(status, event) else status
        if status != record.status:
            contents = contents.with_vm(replace(record, status=status))
    return contents


def cannot_use(reason: str) -> str:
    """The note of a VM that VirtualBox cannot use, for `note_problems`."""
    return f"{_CANNOT_USE}: {reason}"


def is_unusable(record: VmRecord) -> bool:
    """Whether VirtualBox could not use the VM when its host last looked; `last_error` says why."""
    return record.last_error.startswith(_CANNOT_USE)


def note_problems(contents: Contents, problems: Mapping[str, str], when: str) -> Contents:
    """Notes why VirtualBox cannot use VMs, by UUID; an empty text takes the note back."""
    for record in list(contents.vms.values()):
        problem = problems.get(record.uuid)
        if problem is not None and record.claim is None and record.last_error != problem:
            contents = contents.with_vm(
                replace(record, last_error=problem, last_error_at=when if problem else "")
            )
    return contents
