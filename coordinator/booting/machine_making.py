"""Making a VM that runs from its copy."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from coordinator.booting import boot_hold, machines, mounts, removing
from coordinator.booting.identity import identity_of
from coordinator.booting.isolation import isolated
from coordinator.restore import restoring
from coordinator.restore.completing import RestoreDifference
from shared.copies.catalogue import Copy
from shared.copies.names import final_name
from shared.host.clock import timestamp
from shared.host.errors import CopyError, UsageError, VBoxManageError, VmBackupError
from shared.host.host_lock import host_lock
from shared.host.notes import write_flushed
from shared.host.printable import option
from shared.ova.vdi_writing import TargetError
from shared.serving import starting
from shared.site import Site
from shared.state.records import VmRecord
from shared.tasks import boot_machine, boot_note, verification
from shared.tasks.boot_note import BootDisk, BootNote, Phase
from shared.tasks.direct_plan import (
    DirectPlan,
    NotDirectError,
    kept_settings,
    plan_directly,
    side_files,
)
from shared.tasks.made_settings import NewDisk, UnknownSettingsError, made_settings
from shared.tasks.noted_import import register
from shared.virtualbox import scratch
from shared.virtualbox.drives import image_drives
from shared.virtualbox.importing import ImportPlan, folder_name
from shared.virtualbox.inventory import Machine
from shared.virtualbox.patience import patiently
from shared.virtualbox.put_back import kept_host_access, put_back
from shared.virtualbox.settings import SettingsError
from shared.virtualbox.settings_writing import parse_settings

log: Final = logging.getLogger(__name__)

#: The program that serves the disks of a VM that runs from its copy.
DISK_SERVER: Final = (*starting.PYTHON, "coordinator.booting.disk_server")


@dataclass(frozen=True, slots=True)
class Way:
    """How a copy is run: the plan of its VM, its disks, and what its sidecar says it is.

    `without`: what its original had, and it has not.
    """

    what: ImportPlan
    how: DirectPlan
    sha256: str
    config: str | None
    network: bool
    without: RestoreDifference


def plan(
    site: Site,
    copy: Copy,
    *,
    name: str | None,
    folder: Path | None,
    config: str | None,
    network: bool,
) -> Way:
    """What is to be made.

    Raises `UsageError`, `CopyError` if no VM can run from the copy, `NasError`.
    """
    what = restoring.plan(site, copy, name=name, folder=folder)
    try:
        how = plan_directly(what, kept_settings(what))
        _refuse_kinds(how.kept)
        without = _left_out(what, how.kept)
    except (NotDirectError, UnknownSettingsError, SettingsError) as error:
        raise CopyError(
            f"a VM cannot run from the copy {copy.stamp}: {error}",
            hint="`vmbackup-admin restore` makes a VM of it",
        ) from None
    sha256 = copy.sidecar.sha256 if copy.sidecar else ""
    return Way(what, how, sha256, config, network, without)


def _left_out(what: ImportPlan, kept: bytes) -> RestoreDifference:
    """What the VM has not, though its original had it, by the settings that were kept.

    Raises `SettingsError` if they cannot be read.
    """
    machine = parse_settings(kept).find("Machine")
    drives = () if machine is None else tuple(image_drives(machine))
    discs = tuple(
        f"the image in its CD drive ({drive.path})" for drive in drives if drive.kind == "dvddrive"
    )
    return RestoreDifference(kept_host_access(kept), what.left_out, discs)


def begin(
    site: Site, record: VmRecord, copy: Copy, way: Way, *, noted: Callable[[], None]
) -> tuple[BootNote, tuple[str, ...]]:
    """Makes the VM and starts it. It runs when this returns; what fails leaves nothing behind.

    Answers its note, and what its server doubts, like `serve`. Calls `noted` when it is noted that
    the name is taken. Raises what went wrong.
    """
    for suffix, data in side_files(way.what, way.how).items():
        verification.check_read_file(copy, suffix, data)
    note = _new_note(site, record, copy, way)
    with host_lock(note.file.parent, note.file.stem):
        boot_note.write(note)
        noted()
        try:
            boot_hold.place(site, record, note)
            _make_folder(note)
            doubts = serve(note, copy, way.sha256, way.config, fresh=True)
            machine = _register(site, note, way)
            _keep_writes_apart(site, note, machine)
            note = boot_note.advanced(note, Phase.RUNNING)
            machines.switch_on(site, note.uuid)
        except BaseException:
            _undo(site, note)
            raise
    log.info("%s runs from %s of %s", note.name, note.stamp, note.key)
    return note, doubts


def serve(
    note: BootNote, copy: Copy, sha256: str, config: str | None, *, fresh: bool
) -> tuple[str, ...]:
    """Starts the server; the disks are there when it returns. Raises like `starting.start`.

    Answers why they may not be filled to the end, as for want of room.
    """
    source = copy.directory / final_name(copy.stamp, "ova")
    job: dict[str, Any] = {"note": str(note.file), "ova": str(source), "sha256": sha256}
    job |= {"config": config, "fresh": fresh, "indexed": not note.index.startswith("sha256:")}
    return starting.start(job, command=DISK_SERVER).problems


def _new_note(site: Site, record: VmRecord, copy: Copy, way: Way) -> BootNote:
    base = folder_name(way.what.name)
    disks = tuple(
        BootDisk(name, str(uuid4()), f"{base}-disk{number:03}.vdi")
        for number, name in enumerate(way.how.disks, 1)
    )
    return BootNote(
        boot_note.new_file(site.configuration.host.state_directory),
        way.what.folder,
        way.what.name,
        str(uuid4()),
        record.uuid,
        record.key,
        copy.stamp,
        identity_of(way.how.index, way.sha256),
        disks,
        timestamp(site.clock.now()),
        repository=site.database.version.repository,
        home=str(boot_machine.home_of(site.configuration)),
    )


def _make_folder(note: BootNote) -> None:
    try:
        note.folder.parent.mkdir(parents=True, exist_ok=True)
        scratch.make(note.folder, note.mark)
        note.place.mkdir()
        note.filling.mkdir()
    except OSError as error:
        raise UsageError(
            f"cannot make {note.folder}: {error.strerror}",
            hint="the owner of the VMs must be able to write there; another place: --to",
        ) from None


def _register(site: Site, note: BootNote, way: Way) -> Machine:
    how = way.how
    new = {
        how.disks[disk.member][0]: NewDisk(disk.uuid, f"{note.place.name}/{disk.file}")
        for disk in note.disks
    }
    try:
        settings = made_settings(
            how.kept, new, name=note.name, uuid=note.uuid, keep_macs=True, with_host_access=False
        )
        back = put_back(settings, how.kept, note.folder, name=note.name, with_host_access=False)
        made = back.settings if way.network else isolated(back.settings)
        settings_file = note.folder / f"{folder_name(note.name)}.vbox"
        write_flushed(settings_file, made)
        if how.nvram is not None:
            write_flushed(settings_file.with_suffix(".nvram"), how.nvram)
    except (UnknownSettingsError, SettingsError) as error:
        raise CopyError(f"its settings cannot be used: {error}") from None
    except OSError as error:
        raise TargetError(error, note.folder) from None
    return register(site, note.uuid, settings_file)


def _keep_writes_apart(site: Site, note: BootNote, machine: Machine) -> None:
    """Takes the snapshot that lets the guest write; proves that it does not write elsewhere."""
    about = "What the guest writes until all of its copy is here. Removed by itself."
    words = ("snapshot", note.uuid, "take", note.mark.name, f"--description={about}")
    patiently(site.clock, lambda: site.vboxmanage.run(*words))
    found = site.inventory().get(note.uuid)
    settings = found.settings if found is not None else None
    snapshots = settings.snapshots if settings is not None else ()
    ours = any(each.name == note.mark.name for each in snapshots)
    served = {str(note.place / disk.file): disk.uuid for disk in note.disks}
    bases = {chain[-1].location: chain[-1].uuid for chain in found.chains} if found else {}
    apart = found is not None and all(len(chain) == 2 for chain in found.chains)
    if not ours or not apart or bases != served or not mounts.is_served(note):
        raise VBoxManageError(f"VirtualBox does not keep apart what {machine.name} writes")


def _refuse_kinds(kept: bytes) -> None:
    """Raises `UnknownSettingsError` for a disk that a snapshot does not keep from being written."""
    for disk in parse_settings(kept).iterfind("Machine/MediaRegistry//HardDisk"):
        if disk.get("type", "Normal") != "Normal":
            raise UnknownSettingsError(f"it has a disk of the kind {disk.get('type')}")


def _undo(site: Site, note: BootNote) -> None:
    try:
        removing.remove(site, boot_note.read(note.file) or note)
    except VmBackupError as error:
        log.error(  # noqa: TRY400 - an operator's message
            "what was made is not removed yet: %s; `vmbackup-admin boot %s` does that",
            *(error.message, option("--discard", note.name)),
        )
