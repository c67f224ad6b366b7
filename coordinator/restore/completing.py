"""Putting back what an import leaves out of a VM, before the VM gets its name and place.

What is put back, and what only if the operator wants it, says `shared.virtualbox.put_back`. What
VirtualBox refuses of it is no reason to have no VM: it is told.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host.errors import VBoxManageError
from shared.host.notes import write_flushed
from shared.site import Site
from shared.tasks.direct_plan import kept_settings
from shared.tasks.firmware_variables import read_variables
from shared.tasks.import_note import ImportNote
from shared.tasks.noted_import import register, unregister
from shared.virtualbox.drives import Drive
from shared.virtualbox.importing import ImportPlan
from shared.virtualbox.put_back import DiskKind, PutBack, kept_host_access, put_back
from shared.virtualbox.settings import SettingsError
from shared.virtualbox.settings import read_file as read_settings
from shared.virtualbox.vboxmanage import work_seconds

log: Final = logging.getLogger(__name__)

_CD_IMAGES: Final = (".iso", ".dmg", ".cdr")


@dataclass(frozen=True, slots=True)
class RestoreDifference:
    """How a restored VM differs from the one that was backed up, in words.

    `host_access` reaches into the host: left out, or put back if that was wanted. `left_out` is in
    no file of the copy. `lost` is what could not be put back.
    """

    host_access: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def foresee(what: ImportPlan) -> RestoreDifference:
    """What a restore would leave out, as far as the copy says it. Raises `NasError`."""
    return RestoreDifference(kept_host_access(kept_settings(what)), what.left_out)


def complete(
    site: Site, what: ImportPlan, note: ImportNote, kept: bytes | None
) -> RestoreDifference:
    """Gives the imported VM back what the import left out, and takes what reaches into the host.

    `kept` are the settings beside the copy. Raises `VBoxManageError`, `NasError`, `CopyError`.
    """
    unregister(site, note)
    try:
        imported = read_settings(str(note.settings_file), site.clock.sleep)
        back = _put_back(what, note, imported, kept)
        _bring_firmware_variables(what, note)
        refused = _register(site, note, back)
        if refused:
            back = _put_back(what, note, imported, None)
            register(site, note.uuid, note.settings_file)
    except SettingsError as error:
        raise VBoxManageError(f"the settings of the imported VM cannot be used: {error}") from None
    except OSError as error:
        raise VBoxManageError(f"cannot write into {note.folder}: {error.strerror}") from None
    lost = [*refused, *back.lost]
    for kind in back.kinds:
        lost += _attach_as(site, note.uuid, kind)
    for drive in back.drives:
        lost += _fill(site, note.uuid, drive)
    return RestoreDifference(back.host_access, what.left_out, tuple(lost))


def _put_back(what: ImportPlan, note: ImportNote, imported: bytes, kept: bytes | None) -> PutBack:
    back = put_back(
        imported, kept, note.folder, name=note.name, with_host_access=what.with_host_access
    )
    write_flushed(note.settings_file, back.settings)
    return back


def _register(site: Site, note: ImportNote, back: PutBack) -> list[str]:
    """Registers the VM; what was lost if VirtualBox refuses the settings that were kept."""
    try:
        register(site, note.uuid, note.settings_file)
    except VBoxManageError as error:
        if note.uuid in site.inventory():
            unregister(site, note)
        log.warning("VirtualBox refuses the kept settings: %s", error.message)
        return [
            f"what only its settings file had, which VirtualBox refuses: {error.message}",
            *back.lost,
        ]
    return []


def _bring_firmware_variables(what: ImportPlan, note: ImportNote) -> None:
    """A VM with BIOS and TPM has its keys in this file, and not in its `.ova`."""
    target = note.settings_file.with_suffix(".nvram")
    if what.nvram is not None and not os.path.lexists(target):
        write_flushed(target, read_variables(what.nvram))


def _attach_as(site: Site, uuid: str, kind: DiskKind) -> list[str]:
    """Attaches a disk as one of another kind. Raises `VBoxManageError` if it is not attached then.

    VirtualBox makes a differencing image for it, in the VM's folder.
    """
    vboxmanage, slot = site.vboxmanage, kind.slot
    words = (
        *("storageattach", uuid, f"--storagectl={slot.controller}"),
        *(f"--port={slot.port}", f"--device={slot.device}"),
    )
    lost = []
    vboxmanage.run(*words, "--medium=none")
    try:
        vboxmanage.run("modifymedium", "disk", kind.image, f"--type={kind.kind}")
    except VBoxManageError as error:
        lost.append(
            f"its disk at {slot.controller} {slot.port} is an ordinary one, not {kind.kind}: "
            f"{error.message}"
        )
    vboxmanage.run_long(
        work_seconds(), *words, "--type=hdd", f"--medium={kind.image}", *kind.options
    )
    return lost or _set_auto_reset(site, uuid, kind)


def _set_auto_reset(site: Site, uuid: str, kind: DiskKind) -> list[str]:
    """Whether the new differencing image is emptied at each start, as the original's was or not.

    VirtualBox makes it so for an immutable disk, and not for one of another kind.
    """
    machine = site.inventory().get(uuid)
    disks = machine.settings.disks if machine is not None and machine.settings else ()
    slot = (kind.slot.controller, kind.slot.port, kind.slot.device)
    found = (disk for disk in disks if (disk.controller, str(disk.port), str(disk.device)) == slot)
    leaves = {chain[0].uuid: chain[0] for chain in machine.chains} if machine is not None else {}
    image = next((leaves[disk.image] for disk in found if disk.image in leaves), None)
    lost = f"whether its disk at {slot[0]} {slot[1]} is emptied at each start"
    if image is None:
        return [lost]
    if image.auto_reset != kind.auto_reset:
        words = f"--autoreset={'on' if kind.auto_reset else 'off'}"
        try:
            site.vboxmanage.run("modifymedium", "disk", image.uuid, words)
        except VBoxManageError as error:
            return [f"{lost}: {error.message}"]
    return []


def _fill(site: Site, uuid: str, drive: Drive) -> list[str]:
    """Puts an image into a drive if this host has it where the other one had it."""
    slot, what = drive.slot, "CD" if drive.kind == "dvddrive" else "floppy"
    usable = drive.kind != "dvddrive" or Path(drive.path).suffix.lower() in _CD_IMAGES
    if not usable or not os.path.isabs(drive.path) or not os.path.isfile(drive.path):
        return [f"the image in its {what} drive ({drive.path}), which is not on this host"]
    try:
        site.vboxmanage.run(
            *("storageattach", uuid, f"--storagectl={slot.controller}", f"--port={slot.port}"),
            *(f"--device={slot.device}", f"--type={drive.kind}", f"--medium={drive.path}"),
        )
    except VBoxManageError as error:
        return [f"the image in its {what} drive ({drive.path}): {error.message}"]
    return []
