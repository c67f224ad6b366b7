"""Records of VMs made of their copies alone, for a state database that is made anew.

What a copy carries is taken over: which VM it is of, its name, its host, its key in the database,
its directory, pins, holds and damage. No VM begins as CLEAN: whether it was used since its newest
copy is not known, and a needless backup costs less than a missing one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from shared.copies.catalogue import Copy
from shared.copies.names import safe_directory_name
from shared.copies.survey import CopiesPlace, FoundVm
from shared.host.clock import timestamp
from shared.nas.spelling import folded
from shared.state.contents import Contents
from shared.state.records import VmRecord
from shared.state.rules import copies as copies_rules
from shared.state.rules.vm_records import free_key
from shared.state.states import State
from shared.tasks import vm_copies


@dataclass(frozen=True, slots=True)
class MadeOfCopies:
    """What became of the VMs that were found, and which of them have no directory of their own.

    `homeless`: other VMs have all directories with their copies; those stay there without a record.
    """

    contents: Contents
    homeless: tuple[FoundVm, ...]


def make(
    found: Iterable[FoundVm], known: Mapping[str, VmRecord], now: datetime, contents: Contents
) -> MadeOfCopies:
    """Adds a record for each VM to `contents`.

    `known` are rows of the database that was lost, by UUID, which older copies need: they say what
    a VM was called in it. Pure.
    """
    homes = _homes(found, known)
    made = [_record(vm, directory, now, known.get(vm.uuid)) for vm, directory in homes if directory]
    keys = _keys(made, {vm.uuid: vm for vm, _ in homes}, known)
    for record in made:
        contents = contents.with_vm(replace(record, key=keys[record.uuid]))
    return MadeOfCopies(contents, tuple(vm for vm, directory in homes if not directory))


def in_directory(vm: FoundVm, directory: str) -> list[tuple[Copy, CopiesPlace]]:
    """The copies of a VM that lie in its directory, live and archived, oldest first."""
    return [(copy, place) for copy, place in vm.copies if place.directory == directory]


def _homes(found: Iterable[FoundVm], known: Mapping[str, VmRecord]) -> list[tuple[FoundVm, str]]:
    """The directory of each VM; empty: it has none of its own.

    Where two VMs have copies in one, it is that of the VM whose copies came last.
    """
    taken: set[str] = set()
    homes = []
    for vm in sorted(found, key=lambda vm: (-_last_claim(vm), vm.uuid)):
        directory = known[vm.uuid].directory if vm.uuid in known else ""
        free = [name for name in _preferred(vm, directory) if name not in taken]
        taken.update(free[:1])
        homes.append((vm, free[0] if free else ""))
    return homes


def _preferred(vm: FoundVm, directory: str) -> list[str]:
    """A VM's directories, the likeliest first: somebody may have put copies of copies elsewhere.

    The one that the lost database named, `directory`; else as its copies tell.
    """
    return sorted(vm.directories, key=lambda name: name != directory)


def _last_claim(vm: FoundVm) -> int:
    return max((copy.claim for copy, _ in vm.copies), default=0)


def _record(vm: FoundVm, directory: str, now: datetime, known: VmRecord | None) -> VmRecord:
    """The record, without its key yet. `known` is what the lost database said of the VM."""
    copies = in_directory(vm, directory)
    archived = _is_archived(copies, known)
    record = VmRecord(
        key="",
        name=vm.name,
        uuid=vm.uuid,
        node=vm.node,
        directory=directory,
        status=State.ARCHIVED if archived else State.BACKUP_NECESSARY,
        found=timestamp(now),
    )
    judged = vm_copies.judged(
        ((copy, place.archived) for copy, place in copies),
        archived=archived,
        verified="",
        now=now,
    )
    lost = known.holds if known else ()
    record = copies_rules.with_copies(replace(record, holds=lost), judged)
    return replace(record, backed_up=record.last_copy.finished if record.last_copy else "")


def _is_archived(copies: Sequence[tuple[Copy, CopiesPlace]], known: VmRecord | None) -> bool:
    """Whether its newest good copy is in the archive: a move begins with the oldest.

    So what is left of one that was interrupted is finished by the command that began it. A copy may
    be in both places, of a move or because somebody has copied it. Then the lost database tells; if
    that says nothing, it is not: a VM that is used and ARCHIVED would never be backed up again.
    """
    counting = [copy.stamp for copy, _ in copies if copy.good] or [copy.stamp for copy, _ in copies]
    places = {place.archived for copy, place in copies if copy.stamp in counting[-1:]}
    if len(places) > 1:
        return known is not None and known.status == State.ARCHIVED
    return True in places


def _keys(
    records: Sequence[VmRecord], vms: Mapping[str, FoundVm], known: Mapping[str, VmRecord]
) -> Mapping[str, str]:
    """What each VM is called in the database, by UUID.

    As its newest copy says, else as the lost database did. Of several that say the same, one was
    forgotten before the next was called so: the VM whose copies came last has the name. Where
    nothing says it, the one whose directory is called as the VM itself came first.
    """
    contents, keys = Contents(), {}
    told = {
        record.uuid: vms[record.uuid].newest_sidecar.key
        or (known[record.uuid].key if record.uuid in known else "")
        for record in records
    }
    ordered = sorted(
        records,
        key=lambda record: (
            not told[record.uuid],
            -_last_claim(vms[record.uuid]) if told[record.uuid] else 0,
            _was_later(record),
        ),
    )
    for record in ordered:
        key = told[record.uuid]
        if not key or key in contents.vms:
            key = free_key(contents, record.name, record.node, record.uuid)
        keys[record.uuid] = key
        contents = contents.with_vm(replace(record, key=key))
    return keys


def _was_later(record: VmRecord) -> tuple[bool, str, str]:
    """Sorts VMs of one name: the one that came first has the directory of that name."""
    first = safe_directory_name(record.name, (), record.uuid)
    return folded(record.directory) != folded(first), record.directory, record.uuid
