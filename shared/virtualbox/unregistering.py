"""Unregistering a VM that this program made, so that it can be registered again elsewhere.

`unregistervm` closes the disks that only this VM used, but not those that have a differencing
image, nor images in drives: VirtualBox then refuses to register them at another place.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

from shared.host.clock import Clock
from shared.host.errors import VBoxManageError
from shared.host.xml import Element
from shared.virtualbox.patience import patiently
from shared.virtualbox.settings import SettingsError, read_file
from shared.virtualbox.settings_writing import parse_settings
from shared.virtualbox.storage import uuid_of
from shared.virtualbox.vboxmanage import VBoxManage, work_seconds

_DRIVES: Final = (("DVDImages", "dvd"), ("FloppyImages", "floppy"))


def unregister(vboxmanage: VBoxManage, clock: Clock, uuid: str, settings_file: str) -> None:
    """Unregisters the VM, and closes the media that its settings file names. All files stay.

    A medium that something else uses stays open. Raises `VBoxManageError`.
    """
    patiently(clock, lambda: vboxmanage.run_long(work_seconds(), "unregistervm", uuid))
    with contextlib.suppress(SettingsError):
        for kind, medium in _left_open(parse_settings(read_file(settings_file, clock.sleep))):
            with contextlib.suppress(VBoxManageError):
                vboxmanage.run("closemedium", kind, medium)


def close_chain(vboxmanage: VBoxManage, images: Sequence[str]) -> None:
    """Closes images that stood on each other, leaf first, when no VM uses them any more.

    A single one is closed already.
    """
    for image in images if len(images) > 1 else ():
        with contextlib.suppress(VBoxManageError):
            vboxmanage.run("closemedium", "disk", image)


def _left_open(tree: Element) -> Iterator[tuple[str, str]]:
    for base in tree.iterfind("Machine/MediaRegistry/HardDisks/HardDisk"):
        if base.find("HardDisk") is not None:
            yield from (("disk", uuid_of(disk)) for disk in reversed(list(base.iter("HardDisk"))))
    for registry, kind in _DRIVES:
        for image in tree.iterfind(f"Machine/MediaRegistry/{registry}/Image"):
            yield kind, uuid_of(image)
