"""How to get at what `files` does not read."""

from typing import Final

from coordinator.guest.signatures import ContentKind
from shared.host.printable import quoted

_PART: Final = "DIR/diskN.partP.img"
_COMMANDS: Final = {
    ContentKind.XFS: f"mount -o ro,loop,nosuid,nodev,norecovery {_PART} /mnt",
    ContentKind.BTRFS: f"mount -o ro,loop,nosuid,nodev {_PART} /mnt",
    ContentKind.LVM: f"losetup -r -f {_PART}, vgchange -ay",
    ContentKind.RAID: f"losetup -r -f {_PART}, mdadm --assemble --readonly",
    ContentKind.LUKS: f"cryptsetup open --readonly {_PART} NAME",
    ContentKind.BITLOCKER: f"cryptsetup bitlkOpen --readonly {_PART} NAME",
}


def advice(kind: str, vm: str) -> str:
    """One sentence; empty for what is read, and where there is nothing to be read."""
    command = next((command for known, command in _COMMANDS.items() if known == kind), "")
    if not command:
        return ""
    key = "with its key: " if kind in (ContentKind.LUKS, ContentKind.BITLOCKER) else ""
    return f"{key}vmbackup-admin mount {quoted(vm)} DIR, then {command}"
