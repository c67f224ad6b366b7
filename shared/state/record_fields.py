"""Kinds of fields in records that hold only certain texts: names of what a host or the NAS has."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Final

from shared.host.configuration import STATE_DIRECTORY
from shared.host.document_fields import FROM_JSON, FieldCheck, is_plain_name


def is_directory_name(name: str) -> bool:
    """Whether a VM's directory may have this name: a plain one, and not the state database's."""
    return is_plain_name(name) and name.casefold() != STATE_DIRECTORY


#: A VM's directory, at the top of the NAS or of the archive. Empty: it has none yet, its record was
#: taken over from a database of version 1.0.
DirectoryName = Annotated[
    str, FieldCheck(lambda name: not name or is_directory_name(name), "no name of a VM's directory")
]
Texts = Annotated[tuple[str, ...], FROM_JSON]

_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_uuid(text: str) -> bool:
    """Whether it is a UUID as VirtualBox writes one."""
    return _UUID.fullmatch(text) is not None


def _is_folder_of_ours(path: str) -> bool:
    place = PurePosixPath(path)
    name = place.name.removeprefix("vmbackup-")
    return place.is_absolute() and name != place.name and _TOKEN.fullmatch(name) is not None


#: Random digits, a UUID, and the folder of a clone, each as a backup makes it; empty: none yet.
#: Whatever they name is unregistered and removed on a host, so they can name nothing else there.
Token = Annotated[
    str, FieldCheck(lambda text: not text or _TOKEN.fullmatch(text) is not None, "no random digits")
]
Uuid = Annotated[str, FieldCheck(lambda text: not text or is_uuid(text), "no UUID")]
CloneFolder = Annotated[
    str,
    FieldCheck(lambda path: not path or _is_folder_of_ours(path), "no folder that a backup makes"),
]
