"""Which disk of a copy becomes which disk of a VM that is taken back in place; or why none can."""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.restore.in_place_checks import restore_instead
from shared.copies.catalogue import Copy
from shared.copies.names import final_name
from shared.export.eligibility import SourceDisk, check_eligibility
from shared.host.errors import (
    CopyError,
    IllegalMoveError,
    LockedError,
    UsageError,
    VBoxManageError,
)
from shared.ova.disk_reader import CopyReader, open_copy
from shared.ova.ovf import Attachment, disk_files
from shared.ova.vdi import VdiImage
from shared.ova.vdi_header import Kind
from shared.site import Site
from shared.state.records import VmRecord
from shared.virtualbox import scratch
from shared.virtualbox.inventory import Machine
from shared.virtualbox.storage import Image

_PLAIN: Final = frozenset({"", "Normal"})


@dataclass(frozen=True, slots=True)
class PlannedDisk:
    """A disk of the VM, and what it becomes.

    `name`: that of the disk in the `.ova`, which has `data` bytes that are not left out as zeros.
    `place`: the image itself, also where a link leads to it.
    """

    source: SourceDisk
    name: str
    size: int
    data: int
    place: str


def plan_disks(
    site: Site, record: VmRecord, machine: Machine, copy: Copy
) -> tuple[PlannedDisk, ...]:
    """The disks of the VM, each with that of the copy which belongs there.

    Raises `IllegalMoveError` that says why not, `CopyError` if the copy is damaged, `NasError`.
    """
    require_plain_disks(site, record, machine)
    found = check_eligibility(machine, site.clock)
    if found.reason:
        raise IllegalMoveError(
            f"{record.key} cannot be taken back in place: {found.reason}",
            hint=restore_instead(record),
        )
    if not found.disks:
        raise IllegalMoveError(f"{record.key} has no disks", hint=restore_instead(record))
    present = {disk.attachment: (disk, _size(disk, record)) for disk in found.disks}
    with open_copy(copy.directory / final_name(copy.stamp, "ova")) as reader:
        wanted = _disks_of(reader)
        _require_same(record, {place: size for place, (_, size) in present.items()}, wanted)
        planned = tuple(
            PlannedDisk(
                source,
                wanted[place][0],
                size,
                sum(length for _, length in reader.disks[wanted[place][2]].runs()),
                os.path.realpath(source.files[0]),
            )
            for place, (source, size) in present.items()
        )
    _require_writable(record, machine, planned)
    _require_names(record, planned)
    return planned


def names_beside(place: str, token: str) -> tuple[str, str]:
    """Where the new disk lies before it is in place, and the old one afterwards."""
    return f"{place}.{token}.vmbackup-new", f"{place}.{token}.vmbackup-old"


def every_image(machine: Machine) -> tuple[Image, ...]:
    """Those that it stands on, and all others that its settings name."""
    return (*machine.images, *(machine.settings.images.values() if machine.settings else ()))


def require_plain_disks(site: Site, record: VmRecord, machine: Machine) -> None:
    """Raises `IllegalMoveError` if a disk is no ordinary one, or something else stands on it."""
    mine = {image.uuid: image for image in machine.images}
    for chain in machine.chains:
        image = chain[0]
        if image.encrypted:
            _refuse(record, image, "is encrypted")
        if len(chain) > 1:
            _refuse(record, image, f"stands on {chain[1].location}")
        if image.kind not in _PLAIN:
            _refuse(record, image, f"is {image.kind.lower()}, and no ordinary one")
    for other in site.inventory().values():
        for image in every_image(other):
            if image.parent in mine:
                _refuse(record, mine[image.parent], f"is what {image.location} stands on")
            same = other.uuid != machine.uuid and _shared(image, mine)
            if same:
                raise LockedError(
                    f"{record.key} cannot be taken back in place: its disk {image.location} is "
                    f"that of {other.name or other.uuid}, too",
                    hint=restore_instead(record),
                )


def _shared(image: Image, mine: Mapping[str, Image]) -> bool:
    real = os.path.realpath(image.location)
    return image.uuid in mine or any(
        real == os.path.realpath(own.location) for own in mine.values()
    )


def _refuse(record: VmRecord, image: Image, why: str) -> None:
    raise IllegalMoveError(
        f"{record.key} cannot be taken back in place: its disk {image.location} {why}",
        hint=restore_instead(record),
    )


def _size(disk: SourceDisk, record: VmRecord) -> int:
    """Bytes of the disk. Raises `IllegalMoveError` if its image is of fixed size."""
    with VdiImage.open(disk.files[0]) as image:
        if image.header.kind == Kind.FIXED:
            raise IllegalMoveError(
                f"{record.key} cannot be taken back in place: its disk {disk.files[0]} is an image "
                "of fixed size",
                hint=restore_instead(record),
            )
        return image.header.size


def _disks_of(reader: CopyReader) -> dict[Attachment, tuple[str, int, int]]:
    """Name, bytes and number of each disk of the copy, by where it was attached."""
    broken = next((disk.problem for disk in reader.disks if disk.problem), "")
    if broken:
        raise CopyError(broken)
    numbers = {disk.name: number for number, disk in enumerate(reader.disks)}
    try:
        described = disk_files(reader.member(next(iter(reader.names), "")))
    except VBoxManageError as error:
        raise CopyError(error.message) from None
    missing = [file.name for file in described if file.name not in numbers]
    if missing:
        raise CopyError(f"the copy has no disk {missing[0]!r}, which its description names")
    unknown = numbers.keys() - {file.name for file in described}
    if unknown:
        raise CopyError(
            f"the copy has a disk {min(unknown)!r}, which its description does not name"
        )
    return {
        file.attachment: (file.name, reader.disks[numbers[file.name]].size, numbers[file.name])
        for file in described
    }


def _require_same(
    record: VmRecord,
    present: Mapping[Attachment, int],
    wanted: Mapping[Attachment, tuple[str, int, int]],
) -> None:
    """Raises `IllegalMoveError` unless the VM has the same disks at the same places."""
    told = list(_differing(present, {place: size for place, (_, size, _) in wanted.items()}))
    if told:
        raise IllegalMoveError(
            f"{record.key} has other disks than the copy: {'; '.join(told)}",
            hint=f"attach disks as they were, or {restore_instead(record)}",
        )


def _differing(
    present: Mapping[Attachment, int], wanted: Mapping[Attachment, int]
) -> Iterator[str]:
    for place in sorted(present.keys() | wanted.keys()):
        if place not in wanted:
            yield f"the copy has none at {place.label}"
        elif place not in present:
            yield f"the VM has none at {place.label}"
        elif present[place] != wanted[place]:
            yield f"at {place.label} the VM has {present[place]} bytes, the copy {wanted[place]}"


def _require_writable(record: VmRecord, machine: Machine, disks: Sequence[PlannedDisk]) -> None:
    folders = {os.path.dirname(disk.place) for disk in disks}
    for path in (machine.settings_file, *folders):
        if not os.access(path, os.W_OK):
            raise UsageError(
                f"{record.key} cannot be taken back in place: this user may not write {path}",
                hint="run as the user who owns the VMs",
            )
    linked = next((disk.place for disk in disks if _names(disk.place) > 1), None)
    if linked:
        raise IllegalMoveError(
            f"{record.key} cannot be taken back in place: {linked} has another name, under which "
            "something else may use it",
            hint=restore_instead(record),
        )


def _names(path: str) -> int:
    try:
        return os.stat(path).st_nlink
    except OSError as error:
        raise CopyError(f"{path} cannot be looked at: {error.strerror}") from None


def _require_names(record: VmRecord, disks: Sequence[PlannedDisk]) -> None:
    """Raises `IllegalMoveError` if no file can be called as what is to lie beside a disk."""
    token = scratch.new_token()
    for name in (name for disk in disks for name in names_beside(disk.place, token)):
        try:
            os.lstat(name)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise IllegalMoveError(
                    f"{record.key} cannot be taken back in place: the name of its disk is too "
                    f"long for another one to lie beside it: {name}",
                    hint=restore_instead(record),
                ) from None
