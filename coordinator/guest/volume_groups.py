"""The volume groups of LVM on the disks of a copy, put together from all their partitions."""

from collections.abc import Iterable, Iterator
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

#: Of all descriptions together no more than this is looked at: a copy may have thousands.
_MOST_TEXT: Final = 4 * MOST_BYTES
_MOST_VOLUMES: Final = 1000


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
    """A description of a group, and how new it is."""

    group: str
    name: str
    number: int
    section: Section


def find_volumes(slots: Iterable[Slot]) -> Volumes:
    """All volumes of all groups that have a disk here. Raises `NasError`."""
    found, labels = Volumes(), dict[str, tuple[Slot, Label]]()
    for slot in slots:
        try:
            label = read_label(slot.read, slot.size)
        except CopyError as error:
            found.notes[slot.place] = error.message
            continue
        if label is not None:
            # a second one of the same name is a copy of the first, which LVM would refuse
            labels.setdefault(label.uuid, (slot, label))
    newest = _newest(label for _, label in labels.values())
    by_name = [each.name for each in newest]
    for each in newest:
        shown = each.name if by_name.count(each.name) == 1 else each.group
        _add_group(found, each, shown, labels)
    for slot, _ in labels.values():
        found.notes.setdefault(slot.place, "no description of its volume group is whole")
    return found


def _newest(labels: Iterable[Label]) -> list[_Description]:
    """The newest description of each group, among those that name the disk on which they are."""
    newest, read = dict[str, _Description](), dict[bytes, list[_Description]]()
    for label in labels:
        for text in label.texts:
            if text not in read and sum(map(len, read)) + len(text) > _MOST_TEXT:
                continue
            if text not in read:
                read[text] = list(_descriptions(text))
            for each in read[text]:
                known = newest.get(each.group)
                own = label.uuid in _disks(each.section).values()
                if own and (known is None or each.number > known.number):
                    newest[each.group] = each
    return list(newest.values())


def _descriptions(text: bytes) -> Iterator[_Description]:
    try:
        for name, section in sections(parse(text)):
            uuid = _bare(section.get("id"))
            if is_name(name) and is_name(uuid):
                yield _Description(uuid, name, natural(section, "seqno"), section)
    except (LvmTextError, VolumeError):
        return


def _disks(section: Section) -> dict[str, str]:
    """The UUIDs of the disks of a group, by the names that the description has for them."""
    found = sections_named(section, "physical_volumes")
    return {name: _bare(each.get("id")) for name, each in found.items()}


def _bare(uuid: object) -> str:
    return uuid.replace("-", "") if isinstance(uuid, str) else ""


def _add_group(
    found: Volumes, newest: _Description, shown: str, labels: dict[str, tuple[Slot, Label]]
) -> None:
    """The volumes of one group, and what is said of its partitions."""
    described = sections_named(newest.section, "physical_volumes")
    there = {
        # one that the group went on without has old data, wherever it was found again
        name: None
        if "MISSING" in words(described[name], "flags") or uuid not in labels
        else labels[uuid][0]
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
