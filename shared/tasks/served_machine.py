"""A VM for a rehearsal whose disks are served from its copy: no import, and no room is taken.

Each disk is an image of VirtualBox's that names a raw file, which is shown by a server as that of
`vmbackup-admin mount`. That is read-only and keeps nothing. What the guest writes goes into a
snapshot in the folder of the VM, which is thrown away with it.

The server ends when it is unmounted (`shared.tasks.import_leftovers`), or at the first read that
fails: whatever ran on then proves nothing.
"""

import os
from pathlib import Path
from typing import Final
from uuid import uuid4

from shared.copies.catalogue import Copy
from shared.copies.names import final_name
from shared.host.errors import ConfigurationError, CopyError, VBoxManageError
from shared.ova.vdi_writing import TargetError
from shared.serving import places, starting
from shared.site import Site
from shared.tasks import import_note, verification
from shared.tasks.direct_plan import (
    DirectPlan,
    NotDirectError,
    kept_file,
    kept_settings,
    plan_directly,
    side_files,
)
from shared.tasks.import_note import ImportNote
from shared.tasks.made_settings import NewDisk, UnknownSettingsError, made_settings
from shared.tasks.noted_import import register
from shared.virtualbox.importing import ImportPlan
from shared.virtualbox.inventory import Machine
from shared.virtualbox.patience import patiently

#: The server ends by itself if no VM has its files open for so long: longer than any start takes.
_IDLE_SECONDS: Final = 3600.0
_NOTHING: Final = "00000000-0000-0000-0000-000000000000"
#: VirtualBox takes it for a disk of its own, the bytes of which are in another file.
_IMAGE: Final = """\
# Disk DescriptorFile
version=1
CID={cid}
parentCID=ffffffff
createType="monolithicFlat"

# Extent description
RW {sectors} FLAT "{file}" 0

# The disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.adapterType="ide"
ddb.uuid.image="{uuid}"
ddb.uuid.parent="{nothing}"
ddb.uuid.modification="{nothing}"
ddb.uuid.parentmodification="{nothing}"
"""


class NotServedError(Exception):
    """No VM can run from this copy on this host; the message says why."""


def plan(copy: Copy) -> DirectPlan:
    """How the copy becomes a VM that runs from it. Raises `NotServedError`, `NasError`."""
    try:
        places.require_fuse()
        source = copy.directory / final_name(copy.stamp, "ova")
        kept, nvram = kept_file(copy, "vbox"), kept_file(copy, "nvram")
        what = ImportPlan(source, copy.stamp, copy.directory, kept=kept, nvram=nvram)
        how = plan_directly(what, kept_settings(what))
        for suffix, data in side_files(what, how).items():
            verification.check_read_file(copy, suffix, data)
    except (ConfigurationError, CopyError) as error:
        raise NotServedError(error.message) from None
    except NotDirectError as error:
        raise NotServedError(str(error)) from None
    return how


def make(site: Site, copy: Copy, how: DirectPlan, note: ImportNote) -> tuple[ImportNote, Machine]:
    """Serves the disks of the copy as the VM that is noted; returns the note that has its UUID.

    And the VM, which must not be started before `keep_writes_apart`. Raises what went wrong, with
    nothing removed yet.
    """
    uuid = str(uuid4())
    disks = {
        name: NewDisk(str(uuid4()), f"disk{how.numbers[name]}.vmdk", "VMDK") for name in how.disks
    }
    note = import_note.identify(note, uuid, [disk.file for disk in disks.values()])
    try:
        settings = made_settings(
            how.kept,
            {how.disks[name][0]: disk for name, disk in disks.items()},
            name=note.name,
            uuid=uuid,
            keep_macs=True,
            with_host_access=False,
        )
        _place(note).mkdir()
        note.settings_file.write_bytes(settings)
        if how.nvram is not None:
            note.settings_file.with_suffix(".nvram").write_bytes(how.nvram)
        for name, disk in disks.items():
            image = _image(disk, how.disks[name][1], _served(note, how.numbers[name]))
            (note.folder / disk.file).write_text(image, encoding="ascii")
    except UnknownSettingsError as error:
        raise CopyError(str(error)) from None
    except OSError as error:
        raise TargetError(error, note.folder) from None
    _serve(copy, note)
    return note, register(site, note.uuid, note.settings_file)


def keep_writes_apart(site: Site, note: ImportNote) -> Machine:
    """Takes the snapshot that lets the guest write, and proves that it writes there only.

    Raises `VBoxManageError`.
    """
    words = ("snapshot", note.uuid, "take", note.name)
    patiently(site.clock, lambda: site.vboxmanage.run(*words))
    machine = site.inventory().get(note.uuid)
    chains = machine.chains if machine is not None else ()
    bases = {os.path.realpath(chain[-1].location) for chain in chains}
    ours = {os.path.realpath(note.folder / disk) for disk in note.disks}
    apart = all(len(chain) == 2 for chain in chains) and bases == ours
    if machine is None or not apart:
        raise VBoxManageError(f"VirtualBox does not keep apart what {note.name} writes")
    return machine


def is_served(note: ImportNote) -> bool:
    """Whether all that was read of the disks until now was what it should be."""
    found = places.at(_place(note))
    return found is not None and found.alive


def _serve(copy: Copy, note: ImportNote) -> None:
    """Starts the server; the disks are there when it returns.

    It needs no unit of its own: it may end with us. Raises `NotServedError` if it does not start,
    `CopyError` if not all disks are there, and what `starting.start` raises.
    """
    job = {
        "ova": str(copy.directory / final_name(copy.stamp, "ova")),
        "place": os.path.realpath(_place(note)),
        "what": f"{note.name}:{copy.stamp}",
        "hold": False,
        "idle": _IDLE_SECONDS,
        "strict": True,
    }
    try:
        problems = starting.start(job, environment={}).problems
    except starting.MountError as error:
        raise NotServedError(error.message) from None
    if problems:
        raise CopyError(problems[0])


def _place(note: ImportNote) -> Path:
    return note.folder / "disks"


def _served(note: ImportNote, number: int) -> str:
    """The raw file of a disk, as its image names it."""
    return f"{_place(note).name}/disk{number}.img"


def _image(disk: NewDisk, size: int, file: str) -> str:
    return _IMAGE.format(
        cid=disk.uuid[:8], sectors=size // 512, file=file, uuid=disk.uuid, nothing=_NOTHING
    )
