"""The clone of a VM that stands still: its images, settings and firmware variables, in folders."""

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from shared.frozen.pausing import folder_of_clone
from shared.frozen.reflink import clone
from shared.ova.vdi_header import VdiHeader
from shared.ova.vdi_identity import give_identity
from shared.virtualbox import scratch
from shared.virtualbox.clone_parts import Made, note_elsewhere
from shared.virtualbox.cloned_settings import ClonedImage, cloned_settings
from shared.virtualbox.inventory import Machine
from shared.virtualbox.settings import read_file
from shared.virtualbox.storage import Image

#: Where VirtualBox keeps the images that it makes for a VM, below its folder.
_IMAGES: Final = "Snapshots"


class PausedClone:
    """What is made of one VM. `take` while it stands still, `complete` afterwards.

    All is below folders that bear the name of the clone, and the mark of a backup.
    """

    def __init__(self, machine: Machine, made: Made) -> None:
        """Makes the folders beside disks on other file systems. Raises OSError."""
        self._machine, self._made = machine, made
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
        """A new UUID for each image, and a file that is called as VirtualBox would call it."""
        home, name = self._made.folder.parent, self._made.folder.name
        for image in self._machine.images:
            identifier = str(uuid.uuid4())
            folder = folder_of_clone(Path(image.location), home, name)
            yield (
                image.uuid,
                ClonedImage(identifier, str(folder / _IMAGES / f"{{{identifier}}}.vdi")),
            )

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
