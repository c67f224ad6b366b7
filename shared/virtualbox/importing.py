"""Imports of copies as new VMs, in the background.

What may be imported, where it goes, how it ends.

Measured on VirtualBox 7.2.22 (docs/virtualbox.md): the new VM has a new UUID; a disk is put where
its member's name says, also outside of the VM's folder; an import that fails leaves an empty
folder; one into the folder of another VM leaves its disks there.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host.errors import CopyError, UsageError, VBoxManageError
from shared.virtualbox.background import Background
from shared.virtualbox.vboxmanage import VBoxManage
from shared.virtualbox.vboxmanage_output import complaint

_PERCENT: Final = re.compile(r"(\d{1,3})%")
#: VBoxManage prints progress twice: of reading the description, which ends with this line, and of
#: the import.
_READ: Final = "\nOK.\n"
#: Characters that VirtualBox leaves in names of files; besides them those from U+00A0 to U+D7AF.
_SAFE: Final = frozenset(" ()-._0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
#: What is no character of XML.
_UNUSABLE: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: In bytes. The longest name of a file, without the longest ending that those of a VM have.
_LONGEST_FOLDER: Final = 255 - len("-disk001.vdi.partial.digests")
_DEFAULT_FOLDER: Final = re.compile(r"^Default machine folder: +(.+)$", re.MULTILINE)

#: Part of VBoxManage's text, what it means, and what to do about it.
_MEANINGS: Final = (
    ("VERR_CANCELLED", "canceled", ""),
    (
        "VERR_DISK_FULL",
        "this host's disk is full",
        "make room there, or restore to another place: --to",
    ),
    (
        "VERR_WRITE_PROTECT",
        "the target cannot be written",
        "the owner of the VMs must be able to write there",
    ),
    (
        "VERR_ACCESS_DENIED",
        "the target cannot be written",
        "the owner of the VMs must be able to write there",
    ),
    (
        "VERR_FILE_NOT_FOUND",
        "VirtualBox does not find the copy or the target",
        "does VBoxSVC see the NAS and the target under these paths?",
    ),
    (
        "VERR_PATH_NOT_FOUND",
        "VirtualBox does not find the copy or the target",
        "does VBoxSVC see the NAS and the target under these paths?",
    ),
    (
        "Digest mismatch",
        "the copy was damaged while it was read",
        "try again; `vmbackup-admin verify` tells whether it is damaged for good",
    ),
    (
        "VERR_ZIP_",
        "the copy was damaged while it was read",
        "try again; `vmbackup-admin verify` tells whether it is damaged for good",
    ),
)


class ImportFailedError(VBoxManageError):
    """VirtualBox did not import the copy."""


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What becomes of a copy.

    `source` (an `.ova`) as the VM `name`, in a folder of its own below `base_folder`. `kept` and
    `nvram` are the settings file and the firmware variables beside it, None if there are none;
    `left_out` says what of the VM is in no file. `with_host_access`: what reaches into the host
    comes back, too.
    """

    source: Path
    name: str
    base_folder: Path
    keep_macs: bool = True
    kept: Path | None = None
    nvram: Path | None = None
    left_out: tuple[str, ...] = ()
    with_host_access: bool = False

    @property
    def folder(self) -> Path:
        """Where the VM will be."""
        return self.base_folder / folder_name(self.name)


def folder_name(name: str) -> str:
    """The name of a VM as VirtualBox makes the name of its folder and settings file of it."""
    safe = "".join(
        character
        if character in _SAFE or "\xa0" <= character <= "\ud7af"
        else "_" * len(character.encode("utf-8", "surrogateescape"))
        for character in name
    )
    start, end = len(safe) - len(safe.lstrip(" ")), len(safe.rstrip(" "))
    safe = "_" * start + safe[start:end] + "_" * (len(safe) - end)
    safe = "_" + safe[1:] if safe.startswith((".", "-")) else safe
    return safe[:-1] + "_" if safe.endswith(".") else safe


def default_folder(vboxmanage: VBoxManage) -> Path:
    """Where VirtualBox puts new VMs. Raises `VBoxManageError`."""
    match = _DEFAULT_FOLDER.search(vboxmanage.read("list", "systemproperties"))
    if not match:
        raise VBoxManageError(
            "VBoxManage does not say where it puts new VMs", hint="say it: --to DIRECTORY"
        )
    return Path(match[1])


def refuse_unusable_name(name: str) -> None:
    """Raises `UsageError` if no VM can be called so.

    Its settings file could not be read again: a copy says the name of its VM as JSON, which can
    hold what XML cannot. Or no system takes the names of its files.
    """
    why = "" if name else "a VM needs a name"
    if _UNUSABLE.search(name):
        why = f"no VM can be called {name[:100]!r}"
    elif len(folder_name(name).encode()) > _LONGEST_FOLDER:
        why = f"the name {name[:100]!r}… is too long: its files could not be called after it"
    if why:
        raise UsageError(why, hint="give it another name: --as NAME")


def refuse_unsafe(members: Iterable[str]) -> None:
    """Raises `CopyError` if a member's name would lead out of the new VM's folder.

    VirtualBox follows such names (an absolute one, one with `..`), and hangs on some. A name with a
    slash inside, which a VM of such a name has, makes a folder below the VM's.
    """
    for name in members:
        if name.startswith("/") or name.endswith("/") or {".", ".."} & set(name.split("/")):
            raise CopyError(
                (
                    f"the copy has a member {name!r}, which VirtualBox would write outside of the "
                    f"VM's folder"
                ),
                hint=(
                    "import it by hand, with a path of your own for each disk: docs/restore.md "
                    "says how"
                ),
            )


class RunningImport:
    """An import that was started. Whoever started it polls it to its end, or cancels it.

    `source` (an `.ova`) becomes the VM `name`, whose settings file VirtualBox is told, so that it
    is not put elsewhere because of its group; its disks go beside that. Raises `VBoxManageError` if
    it cannot be started.
    """

    def __init__(
        self,
        vboxmanage: VBoxManage,
        source: Path,
        name: str,
        settings_file: Path,
        *,
        keep_macs: bool,
    ) -> None:
        options = "keepallmacs,importtovdi" if keep_macs else "importtovdi"
        self._folder = settings_file.parent
        self._process = Background(
            *(vboxmanage, "import", str(source), "--vsys", "0", f"--vmname={name}"),
            *(f"--settingsfile={settings_file}", f"--options={options}"),
        )

    def progress(self) -> int:
        """Percent done, as VBoxManage reports it."""
        found = _PERCENT.findall(self._process.said().partition(_READ)[2])
        return min(int(found[-1]), 100) if found else 0

    def written(self) -> int:
        """Bytes in the new VM's folder so far."""
        return sum(
            _size(os.path.join(place, name))
            for place, _, names in os.walk(self._folder)
            for name in names
        )

    def poll(self) -> bool:
        """Whether it has ended, well or not."""
        return self._process.poll()

    def cancel(self, timeout_seconds: float) -> bool:
        """Asks it to stop and waits at most so long; answers whether it has ended.

        It may have succeeded in the meantime.
        """
        return self._process.cancel(timeout_seconds)

    def result(self) -> None:
        """Returns if it succeeded.

        Raises `ImportFailedError` if not; only to be called when it has ended.
        """
        completed = self._process.completed()
        if completed is None:
            raise ImportFailedError("the import still runs")
        if failure := complaint(completed):
            meaning, hint = next(
                ((text, hint) for code, text, hint in _MEANINGS if code in failure), ("", "")
            )
            raise ImportFailedError(
                f"import failed: {meaning + ': ' if meaning else ''}{failure}", hint=hint
            )


def _size(path: str) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return 0
