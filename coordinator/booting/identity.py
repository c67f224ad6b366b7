"""What a VM that runs from a copy is bound to: it goes on from the same bytes, or not at all."""

from typing import Final

from shared.host.errors import CopyError
from shared.host.printable import option
from shared.ova.disk_reader import CopyReader
from shared.tasks.boot_note import BootNote

_WHOLE: Final = "sha256:"


def identity(reader: CopyReader, sha256: str) -> str:
    """What a VM is bound to that is begun with this copy."""
    return identity_of(reader.index.digest if reader.index else "", sha256)


def identity_of(index: str, sha256: str) -> str:
    """The digest of the copy's index; without one that of the whole copy, as its sidecar says."""
    return index or f"{_WHOLE}{sha256}"


def require_same(reader: CopyReader, sha256: str, note: BootNote) -> None:
    """Raises `CopyError` unless it is the copy that the VM was begun with.

    That the VM may be thrown away is only said of another copy: what cannot be compared with the
    one of before may be that one.
    """
    now = f"{_WHOLE}{sha256}" if note.index.startswith(_WHOLE) else identity(reader, sha256)
    if now == note.index:
        return
    begun = f"what {note.name!r} was begun with"
    if now == _WHOLE:
        why = "nothing beside it says which one it is"
    elif now.startswith(_WHOLE) != note.index.startswith(_WHOLE):
        why = reader.index_problem
    else:
        raise CopyError(
            f"the copy {note.stamp} is not {begun}: it does not go on",
            hint=f"vmbackup-admin boot {option('--discard', note.name)}, if what it wrote is not "
            "needed",
        )
    raise CopyError(
        f"nobody knows whether the copy {note.stamp} is {begun}: {why}",
        hint=f"bring back what is missing beside the copy, then again: what {note.name!r} wrote is "
        "kept",
    )
