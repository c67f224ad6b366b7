"""Undoing a live backup: its clone, its folder and its snapshot are removed, and nothing else.

What is removed agrees with the note in the database: the clone by the UUID that was chosen for it,
the snapshot by its UUID and its random name, the folder by the mark in it. What only looks like it
stays, and is said. As long as it is not certain that nothing is left, the note stays, too, and the
next tick tries again: so an answer that is empty, or a look that failed, loses nothing.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from shared.host.errors import VBoxManageError
from shared.site import Site
from shared.state.records import Power, VmRecord
from shared.virtualbox import scratch
from shared.virtualbox.clone_parts import ELSEWHERE, Made, elsewhere, find_snapshot, is_below
from shared.virtualbox.guest_pause import NOTE, resume_left
from shared.virtualbox.inventory import Machine
from shared.virtualbox.live_clone import Clones
from shared.virtualbox.settings import SettingsError, parse_machine, read_file
from shared.virtualbox.storage import VmSnapshot
from worker.backup import old_clones

log: Final = logging.getLogger(__name__)


def clones_of(site: Site) -> Clones:
    """Snapshots and clones on this host."""
    return Clones(site.vboxmanage, site.clock)


def made_by(power: Power) -> Made:
    """What a live backup makes, or has made, by its note. Never the VM's own folder."""
    return Made(power.tag, Path(power.folder or power.tag), power.clone, power.snapshot)


def undo_live(site: Site, record: VmRecord, power: Power) -> None:
    """Removes what a live backup has made, or one that pauses its VM. May be repeated.

    Raises `VBoxManageError` unless it is certain that nothing of it is left.
    """
    inventory = site.inventory()
    machine = inventory.get(record.uuid)
    if machine is not None and not machine.accessible:
        raise VBoxManageError(
            f"VirtualBox cannot use {record.key}: {machine.reason}",
            hint="the next tick looks again",
        )
    if not power.token:
        old_clones.undo(clones_of(site), site.inventory, record.uuid, power)
        return
    made = made_by(power)
    clones_of(site).settled(machine, made.name)
    if machine is not None and power.method == "pause":
        _let_go_on(site, machine, made)
    if inventory:
        machine = _remove_clone(site, record, made, inventory)
    if machine is None:
        _make_sure_that_nothing_is_left(site, record, made)
    elif machine.settings is None:
        raise VBoxManageError(
            f"VirtualBox cannot use {record.key}: {machine.reason}",
            hint="the next tick looks again",
        )
    else:
        clones_of(site).merge(machine, find_snapshot(machine.settings.snapshots, made))


def _let_go_on(site: Site, machine: Machine, made: Made) -> None:
    """Resumes a VM that was paused for the clone, if whoever should have done that was killed."""
    for folder in made.folders(machine):
        mark = scratch.mark_of(folder)
        if mark is not None and mark.name == made.name:
            resume_left(site.vboxmanage, machine.uuid, folder / NOTE)


def _remove_clone(
    site: Site, record: VmRecord, made: Made, inventory: Mapping[str, Machine]
) -> Machine | None:
    """Removes clone and folder. Returns the VM as it is then; None: not listed."""
    clones = clones_of(site)
    machine, clone = inventory.get(record.uuid), inventory.get(made.clone)
    clones.refuse_used(
        machine,
        [other for uuid, other in inventory.items() if uuid not in (record.uuid, made.clone)],
        made,
    )
    if clone is not None:
        _require_mark(clone, machine, made)
        clones.unregister(clone, machine, made)
        machine = site.inventory().get(record.uuid)
    clones.close_images(machine, made)
    _remove_folders(made, machine)
    return machine


def _remove_folders(made: Made, machine: Machine | None) -> None:
    """Those last in which others are noted, and only if these are gone."""
    for folder in sorted(made.folders(machine), key=lambda folder: bool(elsewhere(folder))):
        away = next((other for other in elsewhere(folder) if not other.parent.is_dir()), None)
        if away is not None:
            raise VBoxManageError(
                f"{away}, a folder of the clone {made.name}, is out of reach",
                hint=f"mount it, and the next tick removes it; if it never comes back: delete "
                f"{folder / ELSEWHERE}",
            )
        scratch.remove(folder, made.name)


def _require_mark(clone: Machine, machine: Machine | None, made: Made) -> None:
    """Raises `VBoxManageError` unless this host itself has marked a folder for the clone.

    The note comes from the NAS, where others may write. The mark is there before VirtualBox is
    asked for the clone.
    """
    marks = map(scratch.mark_of, made.folders(machine))
    if not any(mark is not None and mark.names(clone) for mark in marks):
        raise VBoxManageError(
            f"the VM {clone.name!r} {{{clone.uuid}}} is said to be the clone {made.name}, but no "
            f"folder here was made for it: it stays",
            hint="look what it is; if it is a clone that nobody needs, delete it in VirtualBox",
        )


def _make_sure_that_nothing_is_left(site: Site, record: VmRecord, made: Made) -> None:
    """The VM is not registered.

    Raises `VBoxManageError` unless its snapshot and the folder are gone as well.
    """
    place = made.folder.parent
    if os.path.lexists(made.folder) or not place.parent.is_dir():
        raise VBoxManageError(
            (
                f"VirtualBox does not list {record.key}, and {made.folder} is "
                f"{'still there' if place.is_dir() else 'out of reach'}"
            ),
            hint="register the VM again, and the next tick removes what a backup has left of it",
        )
    for path, snapshots in _settings_in(site, place, record.uuid):
        if find_snapshot(snapshots, made) is not None:
            raise VBoxManageError(
                f"{record.key} was unregistered with the snapshot {made.name} of a backup ({path})",
                hint=(
                    "register it again, and the next tick removes the snapshot; or delete the "
                    "VM's settings file"
                ),
            )


def _settings_in(
    site: Site, place: Path, uuid: str
) -> Iterable[tuple[Path, tuple[VmSnapshot, ...]]]:
    """Settings files in a folder that are those of the VM, and the snapshots in them."""
    for path in sorted(place.glob("*.vbox")):
        try:
            settings = parse_machine(read_file(str(path), site.clock.sleep))
        except SettingsError as error:
            raise VBoxManageError(
                f"{path} cannot be read: {error}", hint="the next tick looks again"
            ) from None
        if settings.uuid == uuid:
            yield path, settings.snapshots


def without_ours(inventory: Mapping[str, Machine], records: Iterable[VmRecord]) -> list[Machine]:
    """The machines of this host that are somebody's VMs.

    All but those which provably were made by this program.

    The proof is the database, which says in which folder a clone is, or the mark in the folder of a
    machine that belongs to another database.
    """
    powers = [
        (record, power)
        for record in records
        for power in (record.power, record.power_left)
        if power is not None
    ]
    clones = {
        power.clone: made_by(power).folders(inventory.get(record.uuid))
        for record, power in powers
        if power.clone
    }
    old = [(inventory.get(record.uuid), power) for record, power in powers if not power.token]

    def is_ours(machine: Machine) -> bool:
        if is_below(machine.settings_file, clones.get(machine.uuid, ())):
            return True
        if scratch.is_scratch(machine):
            return True
        return any(old_clones.is_clone(machine, original, power) for original, power in old)

    return [machine for machine in inventory.values() if not is_ours(machine)]
