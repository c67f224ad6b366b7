"""Why an export failed, as errors that say what to do.

Pure: reads what VBoxManage printed (texts of VirtualBox 7.2.22).
"""

import re
from dataclasses import dataclass
from typing import Final

from shared.host.errors import ExitCode, VBoxManageError
from shared.host.processes import Completed
from shared.virtualbox.vboxmanage_output import complaint, how_it_ended, killed_by


class ExportError(VBoxManageError):
    """An export failed."""


class VmRunsError(ExportError):
    """The VM runs, is paused, or is just starting or stopping: its disks are written."""


class VmBusyError(ExportError):
    """The VM is off, but something else works on its disks.

    A snapshot is merged, a disk is moved or compacted.
    """


class VmChangedError(ExportError):
    """The VM was used or changed at the moment of which its copy was to be."""


class HostFullError(ExportError):
    """The host has no room left for the clones that keep a VM as it was while it is exported."""

    def __init__(self) -> None:
        super().__init__(
            "the file system of its disks runs short of room, which is kept for the VM: the "
            "export from clones was given up",
            hint="make room there, or lower backup.clone_free",
        )


class UnreachedError(ExportError):
    """VBoxManage did not reach VBoxSVC: nothing was done, and it is worth another try."""


class ExportCanceledError(ExportError):
    """The export was canceled; VirtualBox has removed what it had written and lets go of the VM."""


class ExportAbandonedError(ExportError):
    """VBoxManage was killed.

    VirtualBox may still be writing the file, and holds the VM until it is done.
    """


class ExportTargetError(ExportError):
    """The place of the copy is full, read-only, gone, or taken."""

    exit_code = ExitCode.NAS


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    error: type[ExportError]
    meaning: str
    hint: str = ""


def _rule(pattern: str, error: type[ExportError], meaning: str, hint: str = "") -> _Rule:
    return _Rule(re.compile(pattern, re.DOTALL), error, meaning, hint)


#: In this order: the first that matches what VBoxManage printed.
_RULES: Final = (
    _rule(r"VERR_CANCELLED|\bCANCELED\b", ExportCanceledError, "canceled"),
    _rule(
        r"VERR_DISK_FULL|VERR_FILE_TOO_BIG",
        ExportTargetError,
        "the target is full",
        "make room on the NAS, or lower backup.keep_last",
    ),
    _rule(
        r"opening image file '[^'\n]*\|[^'\n]*' \(VERR_|VERR_NET_\w+ opening image file",
        ExportError,
        "the iSCSI target of a disk does not answer",
        "is it up, and does this host reach it? The NAS is not the cause",
    ),
    _rule(
        r"No network adapter in slot \d+",
        ExportError,
        "VirtualBox has miscounted the network adapters of a VM for ARM, until VBoxSVC starts anew",
        "close VirtualBox and let no VM of this user run for ten seconds: VBoxSVC ends by itself "
        "then, and the next tick backs the VM up",
    ),
    _rule(
        r"storageBus is 6",
        ExportError,
        "a disk is on a USB controller",
        "attach it to a SATA, SCSI, NVMe or IDE controller",
    ),
    _rule(
        r"for writing \(VERR_ALREADY_EXISTS\)",
        ExportTargetError,
        "the target exists",
        "the next run uses another name",
    ),
    _rule(
        r"for writing \(VERR_(?:FILE|PATH)_NOT_FOUND\)",
        ExportTargetError,
        "VirtualBox does not find the target's directory",
        (
            "does VBoxSVC see the NAS? One that was started before it was mounted, or with a "
            "PrivateTmp or chroot of its own, does not"
        ),
    ),
    _rule(
        r"for writing \(VERR_(?:WRITE_PROTECT|ACCESS_DENIED)\)|VERR_WRITE_PROTECT",
        ExportTargetError,
        "the target cannot be written",
        "mount the NAS read-write, and let the owner of the VMs write there",
    ),
    _rule(
        r"VERR_(?:NET_\w+|BROKEN_PIPE|STALE_FILE_HANDLE|DEV_IO_ERROR|IO_NOT_READY)",
        ExportTargetError,
        "the target went away",
        "is the NAS up?",
    ),
    _rule(r"is locked for writing by another task", VmRunsError, "the VM runs"),
    _rule(
        r"is locked for reading by another task|is locked for \w+",
        VmBusyError,
        "something else works on its disks",
    ),
    _rule(
        r"VBOX_E_INVALID_OBJECT_STATE|VBOX_E_INVALID_VM_STATE",
        VmRunsError,
        "the VM runs or changes its state",
    ),
    _rule(
        r"Password ID|Enter the passwords?|VERR_VD_PASSWORD_INCORRECT",
        ExportError,
        "its disks are encrypted",
        (
            "VirtualBox asks for the password of an encrypted disk at each export; decrypt it "
            "(`VBoxManage encryptmedium`) or archive the VM"
        ),
    ),
    _rule(
        r"Could not open the medium.*VERR_(?:FILE|PATH)_NOT_FOUND",
        ExportError,
        "a disk file is missing",
        "put the file back where VirtualBox expects it, or detach the disk",
    ),
    _rule(
        r"VERR_VD_|VERR_ZIP_|VERR_READ_ERROR",
        ExportError,
        "a disk file is damaged",
        "its last good copy, if there is one, is the one to restore",
    ),
    _rule(
        r"E_ACCESSDENIED|object functionality is limited",
        ExportError,
        "the VM is inaccessible",
        "`VBoxManage list --long vms` says why",
    ),
    _rule(r"Could not find a registered machine", ExportError, "the VM is not registered any more"),
    _rule(
        r"Failed to create the VirtualBox object",
        UnreachedError,
        "VBoxSVC could not be reached",
        "nothing was exported; the next run tries again. Does `VBoxManage list vms` work?",
    ),
    _rule(
        r"NS_ERROR_ABORT|NS_ERROR_CALL_FAILED",
        ExportError,
        "VBoxSVC ended during the export",
        "something killed it; that takes the running VMs along, too",
    ),
)


def export_problem(completed: Completed) -> ExportError | None:
    """Why an export that ended failed; None if it did not. Status and stderr must both be clean."""
    if killed_by(completed.status):
        return ExportAbandonedError(
            (
                f"VBoxManage was {how_it_ended(completed.status)}; VirtualBox may go on with the "
                f"export by itself"
            ),
            hint="nothing to do: the next run waits until VirtualBox has let go of the VM",
        )
    failure = complaint(completed)
    if not failure:
        return None
    printed = completed.stdout + completed.stderr
    for rule in _RULES:
        if rule.pattern.search(printed):
            return rule.error(f"export failed: {rule.meaning}: {failure}", hint=rule.hint)
    return ExportError(f"export failed: {failure}")
