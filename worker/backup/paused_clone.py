"""The clone of a VM that stands still: its images, settings and firmware variables, in folders."""

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from shared.frozen.pausing import folder_of_clone
from shared.frozen.reflink import clone
from shared.host.errors import VBoxManageError
from shared.ova.vdi_header import VdiHeader, give_identity
from shared.virtualbox import scratch
from shared.virtualbox.clone_parts import Made, note_elsewhere
from shared.virtualbox.cloned_settings import ClonedImage, cloned_settings
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import read_file
from shared.virtualbox.storage import Image
from shared.virtualbox.vboxmanage import VBoxManage

#: Where VirtualBox keeps the images that it makes for a VM, below its folder.
_IMAGES: Final = "Snapshots"
#: The namespace of the UUIDs of all such images (RFC 9562, version 5).
_CLONES: Final = uuid.UUID("6f1d6c0e-2f0b-4d5e-9a77-1c7f3b0a5d21")


class PausedClone:
    """What is made of one VM. `take` while it stands still, `complete` afterwards.

    All is below folders that bear the name of the clone, and the mark of a backup.
    """

    def __init__(self, machine: Machine, made: Made, repository: str) -> None:
        """Makes the folders beside disks on other file systems. Raises OSError.

        `repository` is that of the state database: two of them may back one VM up.
        """
        self._machine, self._made, self._repository = machine, made, repository
        self._settings = b""
        self._images = dict(self._places())
        #: Where its images are.
        self.folders = {Path(image.file).parent.parent for image in self._images.values()}
        note_elsewhere(made.folder, self.folders - {made.folder})
        for folder in self.folders:
            if folder != made.folder:
                scratch.make(folder, scratch.Mark(made.name, made.clone))
            (folder / _IMAGES).mkdir(mode=0o700)

    def _places(self) -> Iterator[tuple[str, ClonedImage]]:
        """A UUID for each image, and a file that is called as VirtualBox would call it.

        It is the same UUID for each backup of this VM: by it an image is known again, when the next
        backup compares the clones of two. An image that two VMs share has two.
        """
        home, name = self._made.folder.parent, self._made.folder.name
        for image in self._machine.images:
            whose = f"{self._repository}/{self._machine.uuid}/{image.uuid}"
            identifier = str(uuid.uuid5(_CLONES, whose))
            folder = folder_of_clone(Path(image.location), home, name)
            yield (
                image.uuid,
                ClonedImage(identifier, str(folder / _IMAGES / f"{{{identifier}}}.vdi")),
            )

    @staticmethod
    def folder_for(image: Path) -> Path:
        """The directory of the VM's own image, whose clone is `image`, if its folder lies there."""
        return image.parent.parent.parent

    def take(self, sleep: Callable[[float], None]) -> None:
        """Clones what there is at this moment.

        Raises `NotFrozenError`, `SettingsError`, OSError.
        """
        for image in self._machine.images:
            clone(Path(image.location), Path(self._images[image.uuid].file))
        self._settings = read_file(self._machine.settings_file, sleep)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(
                self._machine.nvram_file, self._made.folder / f"{self._made.name}.nvram"
            )

    def register(self, vboxmanage: VBoxManage) -> None:
        """Completes the clones and registers a VM with them.

        VirtualBox may still have images of a clone before in mind, though that is gone: it was
        unregistered by somebody who died before he closed them. These have the same UUIDs. Raises
        like `complete`, and `VBoxManageError`.
        """
        file = str(self.complete())
        try:
            vboxmanage.run("registervm", file)
        except VBoxManageError:
            for image in self._images.values():  # of each chain the leaf first
                with contextlib.suppress(VBoxManageError):
                    vboxmanage.run("closemedium", "disk", image.uuid)
            vboxmanage.run("registervm", file)

    def complete(self) -> Path:
        """Gives the clones UUIDs of their own, and answers the settings file of a VM with them.

        Raises `DiskImageError`, `SettingsError`, OSError.
        """
        done: dict[str, VdiHeader] = {}
        for chain in self._machine.chains:
            self._identify(chain, done)
        chains = [[image.uuid for image in chain] for chain in self._machine.chains]
        made, file = self._made, self._made.folder / f"{self._made.name}.vbox"
        file.write_bytes(
            cloned_settings(self._settings, chains, self._images, name=made.name, uuid=made.clone)
        )
        return file

    def _identify(self, chain: tuple[Image, ...], done: dict[str, VdiHeader]) -> None:
        """The base first, because each image notes what it stands on.

        The guest has just worked with this chain, so its parts belong together.
        """
        parent: VdiHeader | None = None
        for image in reversed(chain):
            if image.uuid not in done:
                cloned = self._images[image.uuid]
                Path(cloned.file).chmod(0o600)
                done[image.uuid] = give_identity(Path(cloned.file), uuid.UUID(cloned.uuid), parent)
            parent = done[image.uuid]
