"""How to get at what `files` does not read."""

from typing import Final

from coordinator.guest.signatures import Kind
from shared.host.printable import quoted

_PART: Final = "DIR/diskN.partP.img"
_COMMANDS: Final = {
    Kind.XFS: f"mount -o ro,loop,nosuid,nodev,norecovery {_PART} /mnt",
    Kind.BTRFS: f"mount -o ro,loop,nosuid,nodev {_PART} /mnt",
    Kind.LVM: f"losetup -r -f {_PART}, vgchange -ay",
    Kind.RAID: f"losetup -r -f {_PART}, mdadm --assemble --readonly",
    Kind.LUKS: f"cryptsetup open --readonly {_PART} NAME",
    Kind.BITLOCKER: f"cryptsetup bitlkOpen --readonly {_PART} NAME",
}


def advice(kind: str, vm: str) -> str:
    """One sentence; empty for what is read, and where there is nothing to be read."""
    command = next((command for known, command in _COMMANDS.items() if known == kind), "")
    if not command:
        return ""
    key = "with its key: " if kind in (Kind.LUKS, Kind.BITLOCKER) else ""
    return f"{key}vmbackup-admin mount {quoted(vm)} DIR, then {command}"
