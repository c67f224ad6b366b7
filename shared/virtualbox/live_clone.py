"""Snapshot and linked clone of a live backup.

Making them so that they are known again, and removing exactly them.

Measured on VirtualBox 7.2.22 (docs/virtualbox.md): a snapshot of a running VM is merged back while
it runs; it cannot be as long as a clone stands on it, and the clone cannot be removed as long as it
is exported, also by an export whose VBoxManage was killed. `unregistervm --delete` deletes every
disk that is attached, whosever it is. Without `--delete` it closes them and leaves the files: so
that is used, and only files in our own folder are removed.
"""

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from shared.host.clock import Clock
from shared.host.errors import VBoxManageError
from shared.host.waits import pausing
from shared.virtualbox import scratch
from shared.virtualbox.clone_parts import Made, asked_for, is_below, is_inside
from shared.virtualbox.export_checks import DiskUse, disk_use
from shared.virtualbox.export_errors import VmBusyError
from shared.virtualbox.guest_pause import GUARD
from shared.virtualbox.inventory import Machine
from shared.virtualbox.power import RUNNING
from shared.virtualbox.storage import Image, VmSnapshot, files_of
from shared.virtualbox.unregistering import close_chain
from shared.virtualbox.vboxmanage import VBoxManage, work_seconds

log: Final = logging.getLogger(__name__)

DESCRIPTION: Final = "made by vmbackup, which removes it"
_TAKEN: Final = re.compile(r"^Snapshot taken\. UUID: ([0-9a-f-]{36})$", re.MULTILINE)
_POLL_SECONDS: Final = 0.5
#: VBoxSVC notices a moment later that the command has ended which held the read lock of a disk; an
#: orphan export takes longer than this.
_RELEASE_SECONDS: Final = 15.0


class Clones:
    """Live copies of one host's VMs.

    All methods raise `VBoxManageError` if VirtualBox does not do what is asked.
    """

    def __init__(self, vboxmanage: VBoxManage, clock: Clock) -> None:
        self._vboxmanage, self._clock = vboxmanage, clock

    def refuse_taken(self, machine: Machine, made: Made, inventory: Mapping[str, Machine]) -> None:
        """Raises if anything of what is to be made has a namesake.

        Then nothing has been done yet, and nothing is.
        """
        snapshots = machine.settings.snapshots if machine.settings else ()
        taken = [
            f"a VM {{{other.uuid}}}"
            for other in inventory.values()
            if made.clone == other.uuid or made.name == other.name
        ]
        taken += [f"a snapshot {{{each.uuid}}}" for each in snapshots if each.name == made.name]
        taken += [f"{made.folder}"] if os.path.lexists(made.folder) else []
        if taken:
            raise VBoxManageError(
                f"the name {made.name} is taken by {', '.join(taken)}",
                hint="nothing was done; the next tick takes another name",
            )

    def make_folder(self, made: Made) -> None:
        """Makes the folder of the clone, exclusively, with its mark.

        Raises `FileExistsError` if it is there.
        """
        try:
            scratch.make(made.folder, scratch.Mark(made.name, made.clone))
        except FileExistsError:
            raise
        except OSError as error:
            raise VBoxManageError(
                f"cannot make {made.folder}: {error.strerror}",
                hint="the owner of the VM must be able to write into its folder",
            ) from None

    def take(self, machine: Machine, made: Made) -> Made:
        """Takes the snapshot, of a running VM without stopping it.

        One that is paused stays so: VirtualBox refuses `--live` then, and without it nothing stops.
        """
        info = self._vboxmanage.info(machine.uuid)
        live = ["--live"] if info.state == "running" else []
        words = ("snapshot", machine.uuid, "take", made.name, f"--description={DESCRIPTION}", *live)
        said = _TAKEN.search(self._vboxmanage.run_long(work_seconds(info.memory), *words))
        return replace(made, snapshot=said[1] if said else "")

    def clone(self, machine: Machine, made: Made) -> None:
        """Registers a linked clone of the snapshot."""
        words = [
            "--mode=machine",
            "--options=Link,KeepAllMACs,KeepHwUUIDs",
            f"--snapshot={made.snapshot or made.name}",
        ]
        words += [
            f"--name={made.name}",
            f"--uuid={made.clone}",
            f"--basefolder={made.folder}",
            "--register",
        ]
        memory = self._vboxmanage.info(machine.uuid).memory  # it is copied, too
        self._vboxmanage.run_long(work_seconds(memory), "clonevm", machine.uuid, *words)

    def settled(self, machine: Machine | None, name: str) -> None:
        """Waits while VirtualBox may still be making what a killed worker had asked for.

        It goes on by itself.

        Raises `VmBusyError` if that takes long.
        """
        end = self._clock.monotonic() + _RELEASE_SECONDS
        what = f"VirtualBox, which is still at work on {name}"
        pause = pausing(self._clock.sleep, what, _RELEASE_SECONDS)
        while reason := self._unsettled(machine, name):
            if self._clock.monotonic() >= end:
                raise VmBusyError(reason, hint="that ends by itself; the next tick looks again")
            pause(_POLL_SECONDS)

    def _unsettled(self, machine: Machine | None, name: str) -> str:
        if asked_for(name, "snapshot", "clonevm", "registervm", GUARD):
            return f"VirtualBox is still being asked for {name}"
        if machine is not None and asked_for(machine.uuid, "pause"):
            return "VirtualBox is still being asked to pause the VM"
        info = self._vboxmanage.info(machine.uuid) if machine is not None else None
        return (
            ""
            if info is None or info.stopped or info.state in RUNNING
            else f"the VM is {info.state}"
        )

    def unregister(self, clone: Machine, machine: Machine | None, made: Made) -> None:
        """Unregisters the clone. Its files stay, and so does whatever else is attached to it.

        Raises `VmBusyError` while it is used.
        """
        if not is_below(clone.settings_file, made.folders(machine)):
            raise VBoxManageError(
                f"the clone {made.name} was moved to {clone.settings_file}: it stays",
                hint="delete it in VirtualBox if nobody needs it; the next tick goes on",
            )
        if clone.running:
            raise VmBusyError(
                f"somebody has started the clone {made.name}",
                hint="switch it off; it is removed by the next tick",
            )
        if clone.settings and clone.settings.snapshots:
            raise VBoxManageError(
                f"somebody has taken a snapshot of the clone {made.name}: it stays",
                hint=(
                    "clone it if you need it, then delete that snapshot; the next tick removes "
                    "the clone"
                ),
            )
        for image in (chain[0] for chain in clone.chains):
            if not is_inside(image, made.folders(machine)):
                log.warning(
                    "the disk %s, which is attached to the clone %s, is detached and stays",
                    image.location,
                    made.name,
                )
        own = tuple(chain for chain in clone.chains if is_inside(chain[0], made.folders(machine)))
        self._wait_until_free(replace(clone, chains=own), made.name)
        self._vboxmanage.run_long(work_seconds(), "unregistervm", clone.uuid)
        for chain in own:
            inside = [each.uuid for each in chain if is_inside(each, made.folders(machine))]
            close_chain(self._vboxmanage, inside)

    def refuse_used(self, machine: Machine | None, others: Iterable[Machine], made: Made) -> None:
        """Raises if a VM that does not belong here lies in our folder, or uses a disk of the clone.

        `others` are all VMs but the clone and the VM that was cloned.
        """
        folders = made.folders(machine)
        for other in others:
            if is_below(other.settings_file, folders):
                raise VBoxManageError(
                    f"{other.words} lies in {made.folder}, which is to be removed: both stay",
                    hint="move that VM elsewhere; the next tick goes on",
                )
            if used := next((image for image in other.images if is_inside(image, folders)), None):
                raise VBoxManageError(
                    (
                        f"{other.words} uses {used.location}, the disk of a clone "
                        f"that is to be removed: it stays"
                    ),
                    hint="detach that disk there; the next tick goes on",
                )

    def close_images(self, machine: Machine | None, made: Made) -> None:
        """Deletes images of a clone that is not registered any more.

        VirtualBox may still list them with the VM that was cloned.
        """
        for image in (
            list(machine.settings.images.values())
            if machine is not None and machine.settings
            else ()
        ):
            if is_inside(image, made.folders(machine)):
                self.close(image)

    def close(self, image: Image) -> None:
        """Makes VirtualBox forget an image that nothing uses, and deletes its file if it exists."""
        self._vboxmanage.run(
            "closemedium",
            "disk",
            image.uuid,
            *(["--delete"] if os.path.exists(image.location) else []),
        )

    def merge(self, machine: Machine, snapshot: VmSnapshot | None) -> None:
        """Merges the snapshot back, if there is one."""
        if snapshot is not None:
            self._vboxmanage.run_long(
                work_seconds(sum(map(_size, machine.images))),
                "snapshot",
                machine.uuid,
                "delete",
                snapshot.uuid,
            )

    def _wait_until_free(self, clone: Machine, name: str) -> None:
        end = self._clock.monotonic() + _RELEASE_SECONDS
        pause = pausing(self._clock.sleep, f"whoever exports {name}", _RELEASE_SECONDS)
        while disk_use(self._vboxmanage, clone) is not DiskUse.FREE:
            if self._clock.monotonic() >= end:
                raise VmBusyError(
                    f"the clone {name} is still being exported",
                    hint="it ends by itself; the next tick looks again",
                )
            pause(_POLL_SECONDS)


def _size(image: Image) -> int:
    """Bytes that its files have; those that are not there have none."""
    return sum(os.path.getsize(path) for path in files_of(image) if os.path.exists(path))
