"""How a copy becomes a VM without VirtualBox's import: of the settings that were kept beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.copies.catalogue import Copy
from shared.copies.names import Suffix, final_name
from shared.host.errors import CopyError, VBoxManageError
from shared.nas.nas_errors import reported
from shared.nas.reading import read_file
from shared.ova.disk_reader import open_copy
from shared.ova.ovf import Attachment, disk_files
from shared.tasks.firmware_variables import firmware_variables
from shared.tasks.made_settings import UnknownSettingsError, attachments
from shared.virtualbox.importing import ImportPlan
from shared.virtualbox.settings import MAXIMUM_BYTES


class NotDirectError(Exception):
    """VirtualBox has to import this copy; the message says why."""


@dataclass(frozen=True, slots=True)
class DirectPlan:
    """The kept settings, and for each disk of the `.ova`, by name, its place and its bytes.

    `index` is the digest of the copy's index, empty if it has none that can be used; `nvram` are
    the firmware variables, if there are any; `numbers` are those of the disks, from one on, in the
    order of the `.ova`.
    """

    kept: bytes
    disks: Mapping[str, tuple[Attachment, int]]
    index: str = ""
    nvram: bytes | None = None
    numbers: Mapping[str, int] = field(default_factory=dict)


def plan_directly(what: ImportPlan, kept: bytes | None) -> DirectPlan:
    """How the copy becomes a VM without an import, by the settings that it has kept.

    Raises `NotDirectError`, also for a copy that looks damaged: verifying it tells; `NasError`.
    """
    if kept is None:
        raise NotDirectError("there is no settings file beside the copy")
    try:
        wanted = attachments(kept)
    except UnknownSettingsError as error:
        raise NotDirectError(str(error)) from None
    try:
        with open_copy(what.source) as copy:
            sizes = {disk.name: disk.size for disk in copy.disks}
            problem = next((disk.problem for disk in copy.disks if disk.problem), "")
            described = disk_files(copy.member(next(iter(copy.names), "")))
            index = copy.index.digest if copy.index else ""
            nvram = firmware_variables(what, copy)
    except (CopyError, VBoxManageError) as error:
        raise NotDirectError(error.message) from None
    if problem:
        raise NotDirectError(problem)
    disks = {file.name: (file.attachment, sizes.get(file.name, 0)) for file in described}
    if not disks.keys() == sizes.keys() or {place for place, _ in disks.values()} != wanted:
        raise NotDirectError("its settings have other disks than its .ova")
    numbers = {name: number for number, name in enumerate(sizes, 1)}
    return DirectPlan(kept, disks, index, nvram, numbers)


def kept_file(copy: Copy, suffix: Suffix) -> Path | None:
    """The file of this kind beside a copy; None if it has none."""
    if copy.sidecar is None or suffix not in copy.sidecar.files:
        return None
    return copy.directory / final_name(copy.stamp, suffix)


def side_files(what: ImportPlan, how: DirectPlan) -> dict[Suffix, bytes]:
    """The side files that the plan was made of, as they were read: those are to be compared."""
    found: dict[Suffix, bytes] = {"vbox": how.kept}
    if what.nvram is not None and how.nvram is not None:
        found["nvram"] = how.nvram
    return found


def kept_settings(what: ImportPlan) -> bytes | None:
    """What the settings file beside the copy holds; None if there is none. Raises `NasError`."""
    if what.kept is None:
        return None
    with reported(f"read {what.kept.name}"):
        return read_file(what.kept, MAXIMUM_BYTES, follow=False)
