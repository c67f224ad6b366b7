"""Gives the clone of a VDI image a UUID of its own: VirtualBox knows one image by each."""

import os
from pathlib import Path
from typing import Final
from uuid import UUID

from shared.ova.vdi_header import HEADER_BYTES, VdiHeader, parse_header, require

_OWN_AT: Final = 0x188
_PARENT_AT: Final = 0x1A8


def give_identity(path: Path, identifier: UUID, parent: VdiHeader | None) -> VdiHeader:
    """Writes the UUID of an image, and of what it stands on: the header as it is then.

    `parent` is the header of its parent, of which it notes UUID and modification, whatever it noted
    before. Raises `DiskImageError` if it is no such image, `OSError`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        header = parse_header(os.pread(descriptor, HEADER_BYTES, 0))
        require((header.parent is None) == (parent is None), f"{path}: it has another parent")
        os.pwrite(descriptor, identifier.bytes_le, _OWN_AT)
        if parent is not None:
            link = parent.identifier.bytes_le + parent.modification.bytes_le
            os.pwrite(descriptor, link, _PARENT_AT)
        return parse_header(os.pread(descriptor, HEADER_BYTES, 0))
    finally:
        os.close(descriptor)
