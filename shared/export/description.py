"""Gets the description of a VM from VirtualBox: by an export that fails at its first disk.

Its target is a local directory in which the names of the disks are taken.

VirtualBox writes the .ovf with all settings, then the .nvram of an EFI machine, and fails at the
first disk, because it never writes over anything (`VERR_ALREADY_EXISTS`). Then it removes what it
wrote; we have opened it by then, and what is open can be read. All that takes 0.05 seconds however
large the disks are, nothing is read from them, nothing goes on if this process is killed. An export
that is cancelled at its first disk goes on for one percent of it: for more than a minute with 400
GB. (Measured with VirtualBox 7.2.22.)
"""

import contextlib
import os
import re
import shutil
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from shared.export.command import PipedCommand
from shared.host.stages import CancelledError
from shared.ova.ovf import rename_files
from shared.ova.scsi import on_one_controller
from shared.virtualbox.export_errors import ExportError
from shared.virtualbox.export_words import ExportedAs
from shared.virtualbox.vboxmanage import VBoxManage

#: How long VirtualBox may take to write the description.
START_SECONDS: Final = 120.0

_TAKEN: Final = "VERR_ALREADY_EXISTS"
#: What VirtualBox wrote, it leaves for a millisecond or more. Seen: 39 of 40 times it could be
#: opened in that time.
_POLL_SECONDS: Final = 0.0005
ATTEMPTS: Final = 12
_LEFT_SECONDS: Final = 3600
_PREFIX: Final = "vmbackup-description-"


@dataclass(frozen=True, slots=True)
class Description:
    """What stands before the disks in an OVA: the .ovf first, perhaps an .nvram.

    All files of the OVA are called after `name`.
    """

    name: str
    members: tuple[tuple[str, bytes], ...]

    @property
    def ovf(self) -> bytes:
        """The .ovf itself."""
        return self.members[0][1]


def take_description(
    vboxmanage: VBoxManage,
    machine: str,
    called: str,
    *,
    disks: int,
    scratch: Path,
    cancelled: threading.Event,
    shown: ExportedAs = ExportedAs(),  # noqa: B008 - a constant
) -> Description:
    """Has VirtualBox describe the VM `machine` (a UUID) named `called`, which has so many disks.

    Uses the local directory `scratch` for a moment and leaves nothing there. The files in the OVA
    are named after the VM; the VM itself keeps its name unless `shown` gives another. Raises
    `ExportError` (`VmRunsError`, …) if VirtualBox refuses, does not answer, or calls the VM
    otherwise; `CancelledError` soon after `cancelled` is set.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", shown.name or called)[:60].strip("._-") or "machine"
    scratch.mkdir(parents=True, exist_ok=True)
    for _ in range(ATTEMPTS):
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=scratch) as directory:
            _sweep(scratch, Path(directory))
            place = _take_names(Path(directory), called, disks)
            target, nvram = place / "description.ovf", Path(f"{place}/{called}.nvram")
            with PipedCommand(
                vboxmanage, ["export", machine, "--ovf20", "--output", str(target), *shown.words()]
            ) as child:
                written = _watch(child, Path(directory), (target, nvram), cancelled)
                if child.status() == 0 and disks:
                    raise ExportError(
                        "VirtualBox has exported disks under other names: was the VM renamed a "
                        "moment ago?"
                    )
                if child.status() != 0 and _TAKEN not in child.said():
                    raise child.problem("VBoxManage has ended without a description of the VM")
            if description := _describe(name, written.get(target), written.get(nvram)):
                return description
    raise ExportError(f"VirtualBox exports {machine} without a description, or removes it too soon")


def _describe(name: str, ovf: bytes | None, nvram: bytes | None) -> Description | None:
    """What VirtualBox wrote, with plain file names; None if something is missing."""
    if ovf is None:
        return None
    text, files = rename_files(on_one_controller(ovf), name)
    others = [file for file in files.values() if not file.endswith(".vmdk")]
    if others and nvram is None:
        return None
    return Description(name, ((f"{name}.ovf", text), *((file, nvram or b"") for file in others)))


def _take_names(directory: Path, called: str, disks: int) -> Path:
    """Makes a directory for the export, in which directories bear the names of the disks.

    The name of a VM may hold slashes: VirtualBox follows them, so the directories on the way are
    made, and this one is so deep that a name with `..` leads to nowhere else.
    """
    place = directory.joinpath("export", *["below"] * called.count(".."))
    try:
        place.mkdir(parents=True)
        for number in range(1, disks + 1):
            os.makedirs(f"{place}/{called}-disk{number:03}.vmdk", exist_ok=True)
    except OSError as error:
        raise ExportError(
            f"the disks of {called!r} cannot be given names in {directory}: {error.strerror}"
        ) from None
    return place


def _watch(
    child: PipedCommand, directory: Path, files: tuple[Path, ...], cancelled: threading.Event
) -> dict[Path, bytes]:
    """Waits until VBoxManage has ended; returns the contents of the `files` that were ever there.

    Raises `ExportError` if it exports a disk.
    """
    deadline = time.monotonic() + START_SECONDS
    with ExitStack() as stack:
        opened: dict[Path, IO[bytes]] = {}
        ended = False
        while not ended:
            ended = (
                child.status() is not None
            )  # asked before looking: what it wrote before it ended is all there is
            for file in files:
                with contextlib.suppress(FileNotFoundError):
                    if file not in opened:
                        opened[file] = stack.enter_context(file.open("rb"))
            if cancelled.is_set():
                raise CancelledError
            if time.monotonic() > deadline:
                raise ExportError(
                    f"VirtualBox does not describe the VM within {START_SECONDS:.0f} seconds"
                )
            if opened or ended:
                _refuse_disks(directory)
            time.sleep(_POLL_SECONDS)
        return {file: stream.read() for file, stream in opened.items()}


def _refuse_disks(directory: Path) -> None:
    """Raises `ExportError` if VirtualBox exports a disk.

    That happens only if it gives disks other names than this program expects.
    """
    if disk := next((path for path in directory.rglob("*.vmdk") if path.is_file()), None):
        raise ExportError(
            f"VirtualBox calls a disk of the VM {disk.name!r}: was the VM renamed a moment ago?"
        )


def _sweep(scratch: Path, own: Path) -> None:
    """Removes what killed workers left: directories much older than the one that was just made."""
    now = own.stat().st_mtime
    for left in scratch.glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            if now - left.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(left)
