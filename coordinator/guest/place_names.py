"""What disks, partitions and logical volumes are called: by `--disk`, and as files of a mount.

`--disk` takes `N` for a disk, `N.P` for a partition, `GROUP/NAME` for a logical volume.
"""


def mounted_name(place: str) -> str:
    """The name of its file in a mounted copy."""
    if "/" in place:
        return f"{folder_name(place)}.img"
    disk, _, partition = place.partition(".")
    return f"disk{disk}.part{partition}.img" if partition else f"disk{disk}.img"


def folder_name(place: str) -> str:
    """What the directory is called into which all files of it are fetched."""
    group, is_volume, volume = place.partition("/")
    if is_volume:  # as device-mapper writes both names as one
        return f"{group.replace('-', '--')}-{volume.replace('-', '--')}"
    return f"disk{place}"


def spoken(place: str) -> str:
    """`disk 1`, `partition 2 of disk 1` for 1.2, or `volume GROUP/NAME`."""
    if "/" in place:
        return f"volume {place}"
    disk, _, partition = place.partition(".")
    return f"partition {partition} of disk {disk}" if partition else f"disk {disk}"
