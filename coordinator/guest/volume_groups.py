"""The volume groups of LVM on the disks of a copy, put together from all their partitions."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from coordinator.guest.logical_volumes import (
    SECTOR,
    Extents,
    Group,
    LogicalVolume,
    VolumeError,
    is_name,
    natural,
    positive,
    sections,
    sections_named,
    words,
)
from coordinator.guest.lvm_labels import Label, read_label
from coordinator.guest.lvm_text import MOST_BYTES, LvmTextError, Section, parse
from coordinator.guest.partitions import Read
from shared.host.errors import CopyError
from shared.ova.block_errors import UnreadBlockError

#: A copy may have thousands of partitions that say so: of no more of them, and of no more of their
#: descriptions together, is anything read or kept.
_MOST_LABELS: Final = 128
_MOST_TEXT: Final = 4 * MOST_BYTES
_MOST_VOLUMES: Final = 1000
_TWICE: Final = "another disk has the same LVM UUID: neither of them is read"


@dataclass(frozen=True, slots=True)
class Slot:
    """A partition, or a whole disk, in which LVM may be; `read` reads from its start."""

    place: str
    disk: int
    start: int
    size: int
    read: Read


@dataclass(slots=True)
class Volumes:
    """What was found: the volumes, and of each partition of LVM what there is to say of it.

    Of those in `whole` all volumes are among the found ones.
    """

    found: list[LogicalVolume] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Description:
    """A description of a group with the UUIDs of its disks, and how new it is."""

    group: str
    name: str
    number: int
    section: Section
    uuids: frozenset[str]


@dataclass(slots=True)
class _Labels:
    """The partitions that say they are disks of LVM, by UUID, and each description that they have.

    One description is on all disks of its group.
    """

    slots: dict[str, Slot] = field(default_factory=dict)
    texts: dict[bytes, set[str]] = field(default_factory=dict)

    def add(self, slot: Slot, label: Label) -> Slot | None:
        """Another one that has its UUID, if there is one."""
        for text in label.texts:
            if text in self.texts or sum(map(len, self.texts)) + len(text) <= _MOST_TEXT:
                self.texts.setdefault(text, set()).add(label.uuid)
        other = self.slots.setdefault(label.uuid, slot)
        return None if other is slot else other


def find_volumes(slots: Iterable[Slot]) -> Volumes:
    """All volumes of all groups that have a disk here. Raises `NasError`."""
    found, labels, twice = Volumes(), _Labels(), set[str]()
    for slot in slots:
        if len(labels.slots) >= _MOST_LABELS:
            found.notes[slot.place] = "there are too many disks of LVM"
            continue
        try:
            label = read_label(slot.read, slot.size)
        except (CopyError, UnreadBlockError) as error:
            found.notes[slot.place] = error.message
            continue
        if label is not None and (other := labels.add(slot, label)):
            # which one its group means nobody knows: LVM refuses them as well
            found.notes |= {slot.place: _TWICE, other.place: _TWICE}
            twice.add(label.uuid)
    newest = _newest(labels)
    there = {uuid: slot for uuid, slot in labels.slots.items() if uuid not in twice}
    names, uuids = [each.name for each in newest], {each.group for each in newest}
    for each in newest:
        alone = names.count(each.name) == 1 and each.name not in uuids
        _add_group(found, each, each.name if alone else each.group, there)
    described = frozenset[str]().union(*labels.texts.values())
    for uuid, slot in labels.slots.items():
        whole = "its volume group is described without it: it was taken out, or belongs elsewhere"
        none = "no description of its volume group is whole"
        found.notes.setdefault(slot.place, whole if uuid in described else none)
    return found


def _newest(labels: _Labels) -> list[_Description]:
    """The newest description of each group, among those that name the disk on which they are."""
    newest = dict[str, _Description]()
    for text, on in labels.texts.items():
        for each in _descriptions(text):
            known = newest.get(each.group)
            if on & each.uuids and (known is None or each.number > known.number):
                newest[each.group] = each
    return list(newest.values())


def _descriptions(text: bytes) -> Iterator[_Description]:
    try:
        for name, section in sections(parse(text)):
            uuid = _bare(section.get("id"))
            if is_name(name) and is_name(uuid):
                uuids = frozenset(_disks(section).values())
                yield _Description(uuid, name, natural(section, "seqno"), section, uuids)
    except (LvmTextError, VolumeError):
        return


def _disks(section: Section) -> dict[str, str]:
    """The UUIDs of the disks of a group, by the names that the description has for them."""
    found = sections_named(section, "physical_volumes")
    return {name: _bare(each.get("id")) for name, each in found.items()}


def _bare(uuid: object) -> str:
    return uuid.replace("-", "") if isinstance(uuid, str) else ""


def _add_group(found: Volumes, newest: _Description, shown: str, slots: Mapping[str, Slot]) -> None:
    """The volumes of one group on the partitions with these UUIDs, and what is said of them."""
    described = sections_named(newest.section, "physical_volumes")
    there = {
        # one that the group went on without has old data, wherever it was found again
        name: None if "MISSING" in words(described[name], "flags") else slots.get(uuid)
        for name, uuid in _disks(newest.section).items()
    }
    problem, before = "", len(found.found)
    try:
        width = positive(newest.section, "extent_size") * SECTOR
        disks = {
            name: _extents(slot, described[name], width) if slot else None
            for name, slot in there.items()
        }
        for volume in Group(shown, newest.section, width, disks).volumes():
            if len(found.found) >= _MOST_VOLUMES:
                raise VolumeError("there are too many volumes")
            found.found.append(volume)
    except VolumeError as error:
        problem = f": {error}"
    missing = sum(slot is None for slot in there.values())
    if missing:
        problem = f", {missing} of {len(there)} disks cannot be found{problem}"
    for slot in filter(None, there.values()):
        found.notes[slot.place] = f"volume group {shown}{problem}"
        if not problem and len(found.found) > before:
            found.whole.add(slot.place)


def _extents(slot: Slot, described: Section, width: int) -> Extents:
    """Where the data of a physical volume is. Raises `VolumeError`."""
    start = natural(described, "pe_start") * SECTOR
    size = min(natural(described, "pe_count") * width, max(0, slot.size - start))
    return Extents(slot.place, slot.disk, slot.start + start, size)
