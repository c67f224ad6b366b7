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
    # changed in its place: made anew for each VM, it would cost the square of their number
    vms = dict(contents.vms)
    after = replace(contents, vms=vms)
    _identify(vms, node, listed, taken)
    known = {record.uuid for record in vms.values()} | {row.uuid for row in kept}
    for record in list(vms.values()):
        if record.uuid in listed:
            sighting = listed[record.uuid]
            found = _seen(record, node, sighting)
            if found.name != record.name or record.taken_in_by:
                del vms[record.key]
                found = replace(
                    found, key=vm_records.free_key(after, sighting.name, node, sighting.uuid)
                )
            vms[found.key] = found
        elif record.taken_in_by:
            continue  # no host has said that it has this VM
        elif record.uuid and record.node == node and record.missing_since is None:
            vms[record.key] = replace(record, missing_since=when)
        elif record.also_on == node:
            vms[record.key] = replace(record, also_on=None)
    for sighting in listed.values():
        if sighting.uuid not in known:
            key = vm_records.free_key(after, sighting.name, node, sighting.uuid)
            directory = _free_directory(taken, sighting)
            new = VmRecord(key, sighting.name, sighting.uuid, node, directory, INITIAL, found=when)
            if sighting.copies is not None and directory == sighting.directory:
                new = with_copies(new, sighting.copies)
            vms[key] = _described(new, sighting)
    return after


def _identify(
    vms: dict[str, VmRecord], node: str, listed: Mapping[str, Sighting], taken: set[str]
) -> None:
    """Gives records of version 1.0, which knew names only, the UUID and host of their VM."""
    known = {record.uuid for record in vms.values()}
    for sighting in listed.values():
        record = vms.get(sighting.name)
        if record is not None and not record.uuid and sighting.uuid not in known:
            directory = _free_directory(taken, sighting)
            vms[record.key] = replace(
                record, uuid=sighting.uuid, node=node, directory=directory, missing_since=None
            )


def _seen(record: VmRecord, node: str, sighting: Sighting) -> VmRecord:
    """The record of a VM that `node` lists, under its old key."""
    if record.taken_in_by:
        return _described(replace(record, name=sighting.name, node=node, taken_in_by=""), sighting)
    if record.node != node:
        given_up = record.missing_since is not None or not record.node
        if not given_up or record.claim is not None:
            return record if record.also_on else replace(record, also_on=node)
        power = unfinished.noted_by(record.power, record.node)
        record = replace(record, node=node, also_on=None, power=power)
    return _described(replace(record, missing_since=None, name=sighting.name), sighting)


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
    changed = []
    for record in contents.vms.values():
        if record.claim is not None or record.publishing is not None or record.power is not None:
            continue
        status = record.status
        for event in events.get(record.uuid, ()):
            status = move(status, event) if allowed(status, event) else status
        if status != record.status:
            changed.append(replace(record, status=status))
    return contents.with_vm(*changed)


def cannot_use(reason: str) -> str:
    """The note of a VM that VirtualBox cannot use, for `note_problems`."""
    return f"{_CANNOT_USE}: {reason}"


def is_unusable(record: VmRecord) -> bool:
    """Whether VirtualBox could not use the VM when its host last looked; `last_error` says why."""
    return record.last_error.startswith(_CANNOT_USE)


def note_problems(contents: Contents, problems: Mapping[str, str], when: str) -> Contents:
    """Notes why VirtualBox cannot use VMs, by UUID; an empty text takes the note back."""
    changed = []
    for record in contents.vms.values():
        problem = problems.get(record.uuid)
        if problem is not None and record.claim is None and record.last_error != problem:
            at = when if problem else ""
            changed.append(replace(record, last_error=problem, last_error_at=at))
    return contents.with_vm(*changed)
