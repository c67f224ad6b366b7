"""Whether VirtualBox would import a copy: asked by `VBoxManage import --dry-run`.

Measured on VirtualBox 7.2.22 (docs/virtualbox.md): it takes a tenth of a second whatever the size,
makes nothing, and looks at the description alone. So it says nothing of the disks.
"""

from pathlib import Path
from typing import Final

from shared.host.errors import VBoxManageError, VBoxManageTimeoutError
from shared.virtualbox.vboxmanage import TransientVBoxManageError, VBoxManage

#: In what VBoxManage says when it could not look: that is no verdict about the copy.
_NO_VERDICT: Final = (
    "cannot start",
    "killed by signal",
    "E_OUTOFMEMORY",
    "VERR_NO_MEMORY",
    "VERR_OPEN_FAILED",
    "VERR_TOO_MANY_OPEN_FILES",
    "VERR_NET_",
    "VERR_BROKEN_PIPE",
    "VERR_STALE_FILE_HANDLE",
    "VERR_DEV_IO_ERROR",
    "VERR_READ_ERROR",
    "VERR_INTERRUPTED",
)
_UNSEEN: Final = ("VERR_FILE_NOT_FOUND", "VERR_PATH_NOT_FOUND", "VERR_ACCESS_DENIED")
_LONGEST: Final = 1000


class CopyUnseenError(VBoxManageError):
    """VirtualBox does not find the copy, or may not read it: asking again at once is no use."""


def refusal(vboxmanage: VBoxManage, source: Path) -> str:
    """Why VirtualBox would not import the `.ova`, in its own words; empty if it would.

    Raises `VBoxManageError` if it does not say: it does not answer, or could not look
    (`CopyUnseenError`).
    """
    try:
        vboxmanage.read("import", str(source), "--dry-run")
    except (VBoxManageTimeoutError, TransientVBoxManageError):
        raise
    except VBoxManageError as error:
        if any(text in error.message for text in _UNSEEN):
            raise CopyUnseenError(
                error.message,
                hint="does VBoxSVC see the NAS? One that was started before it was mounted, or "
                "with a PrivateTmp or chroot of its own, does not, and could restore nothing",
            ) from None
        if any(text in error.message for text in _NO_VERDICT):
            raise
        _, _, said = error.message.partition(" failed: ")
        return (said or error.message)[:_LONGEST]
    return ""
