"""The description of a VM as VirtualBox itself writes it: an export is started on the local disk and cancelled at its first disk.

What comes before the first disk in the OVA is the .ovf with all settings, and the .nvram of an EFI machine. It takes
0.3 to 0.5 seconds. VBoxManage must be ended by a signal that it can handle (TERM, INT): killed, it would leave the export
running in VirtualBox.
"""

import contextlib
import os
import re
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.engine.child import END_SECONDS, Child
from shared.engine.ovf import rename_files
from shared.engine.stages import CancelledError
from shared.engine.tar import BLOCK
from shared.virtualbox.problems import ExportError
from shared.virtualbox.vboxmanage import VBoxManage

#: How long VirtualBox may take to write the description.
START_SECONDS: Final = 120.0

#: A shell around VBoxManage adds this to the number of the signal.
_SIGNAL: Final = 128
_POLL_SECONDS: Final = 0.005
_LEFT_SECONDS: Final = 3600
_PREFIX: Final = "vmbackup-description-"


@dataclass(frozen=True, slots=True)
class Description:
    """What stands before the disks in an OVA: the .ovf first, perhaps an .nvram. `name` is what all files are called after."""

    name: str
    members: tuple[tuple[str, bytes], ...]

    @property
    def ovf(self) -> bytes:
        """The .ovf itself."""
        return self.members[0][1]


def take_description(
    vboxmanage: VBoxManage, machine: str, *, scratch: Path, name: str, cancelled: threading.Event, rename: str | None = None
) -> Description:
    """Has VirtualBox describe `machine` (its UUID). Uses the local directory `scratch` for a moment and leaves nothing there.

    The files in the OVA are named after `name`; the VM itself keeps its name unless `rename` gives another.
    Raises `ExportError` (`VmRunsError`, …) if VirtualBox refuses, does not answer, or does not let the export be cancelled;
    `CancelledError` soon after `cancelled` is set.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:60].strip("._-") or "machine"
    renaming = ["--vsys", "0", "--vmname", rename] if rename else []
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=scratch) as directory:
        _sweep(scratch, Path(directory))
        target = Path(directory) / f"{plain}.ova"
        with Child(vboxmanage, ["export", machine, "--ovf20", "--manifest", "--output", str(target), *renaming], guarded=True) as child:
            members = tuple(_members(child, target, cancelled))
            child.terminate()
            status = child.wait(END_SECONDS)
            if status is None:
                raise ExportError(f"VBoxManage does not cancel its export of {machine}", hint="look for a hanging VBoxManage or VBoxSVC")
            if (status < 0 or status > _SIGNAL) and not child.finished():
                raise ExportError(
                    f"VBoxManage was killed: VirtualBox may go on with an export of {machine} by itself", hint="it ends by itself"
                )
    if not members or not members[0][0].endswith(".ovf"):
        raise ExportError(f"VirtualBox exports {machine} without a description")
    ovf, names = rename_files(members[0][1], plain)
    return Description(plain, ((f"{plain}.ovf", ovf), *((names.get(name, name), content) for name, content in members[1:])))


def _sweep(scratch: Path, own: Path) -> None:
    """Removes directories that killed workers left: those much older than the one that was just made."""
    now = own.stat().st_mtime
    for left in scratch.glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            if now - left.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(left)


def _members(child: Child, target: Path, cancelled: threading.Event) -> Iterator[tuple[str, bytes]]:
    """The members before the first disk, each as soon as VirtualBox has written it and patched its size into its header."""
    deadline = time.monotonic() + START_SECONDS
    position = 0
    while time.monotonic() < deadline:
        ended = child.status() is not None  # asked before reading: what it wrote before it ended is all there is
        member = _member(target, position)
        if member and member[0].name.endswith((".vmdk", ".mf")):
            return
        if member and member[1]:
            yield member[0].name, member[1]
            position += BLOCK + -(-len(member[1]) // BLOCK) * BLOCK
            continue
        if ended:
            raise child.problem("VBoxManage has ended without a description of the VM")
        if cancelled.wait(_POLL_SECONDS):
            raise CancelledError
    raise ExportError(f"VirtualBox does not describe the VM within {START_SECONDS:.0f} seconds")


def _member(target: Path, position: int) -> tuple[tarfile.TarInfo, bytes] | None:
    """The member whose header is at `position`, with its content; empty content while it is being written, None before that."""
    try:
        descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        header = tarfile.TarInfo.frombuf(os.pread(descriptor, BLOCK, position), "utf-8", "surrogateescape")
        content = os.pread(descriptor, header.size, position + BLOCK)
    except tarfile.HeaderError:
        return None
    finally:
        os.close(descriptor)
    return header, content if len(content) == header.size else b""
