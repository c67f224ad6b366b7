"""How to get at what `files` does not read."""

from typing import Final

from coordinator.guest.place_names import mounted_name
from coordinator.guest.signatures import ContentKind
from shared.host.printable import quoted

_COMMANDS: Final = {
    ContentKind.XFS: "mount -o ro,loop,nosuid,nodev,norecovery {file} /mnt",
    ContentKind.BTRFS: "mount -o ro,loop,nosuid,nodev {file} /mnt",
    ContentKind.RAID: "losetup -r -f {file}, mdadm --assemble --readonly",
    ContentKind.LUKS: "cryptsetup open --readonly {file} NAME",
    ContentKind.BITLOCKER: "cryptsetup bitlkOpen --readonly {file} NAME",
}


def advice(kind: str, vm: str, place: str) -> str:
    """One sentence for what lies at a place, as `--disk` calls that.

    Empty for what is read, and where there is nothing to be read.
    """
    if kind == ContentKind.LVM:
        return _of_lvm(vm, "N" if "/" in place else place.partition(".")[0])
    command = next((command for known, command in _COMMANDS.items() if known == kind), "")
    if not command:
        return ""
    key = "with its key: " if kind in (ContentKind.LUKS, ContentKind.BITLOCKER) else ""
    shown = command.format(file=f"DIR/{mounted_name(place)}")
    return f"{key}vmbackup-admin mount {quoted(vm)} DIR, then {shown}"


def _of_lvm(vm: str, disk: str) -> str:
    """LVM alone reads the rest, and only if it may write."""
    file = f"disk{disk}.img"
    restored = f"vmbackup-admin restore {quoted(vm)} --disk {disk} --to {file}"
    return f"for each disk of its group: {restored}, losetup -P -f {file}; then vgchange -ay"
