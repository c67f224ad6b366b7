"""The one door by which a page, a report or metrics come into a file, for others to read."""

import contextlib
import os
import re
import secrets
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from shared.copies.directories import plain_names
from shared.copies.names import parse_final
from shared.host.configuration import Nas
from shared.host.errors import UsageError
from shared.nas.mount import mount_table
from shared.nas.nas_errors import nas_error
from shared.nas.overlap import Relation, relations
from shared.nas.reading import list_fresh, open_file
from shared.nas.writing import FILE_MODE, like_directory, set_mode
from shared.state.contents import Contents

#: Everybody may read it: who shows it runs as a user of its own.
_MODE: Final = 0o644
#: By what stands in so many bytes at its beginning a file is known.
_BEGINNING: Final = 1 << 14
_BELOW: Final = frozenset({Relation.SAME, Relation.INSIDE})


class FileKind(Enum):
    """What is written: what people call it, and how such a file begins."""

    PAGE = "page", rb'<!DOCTYPE html>\s.*?<meta name="vmbackup-page" '
    REPORT = "report", rb'<!DOCTYPE html>\s.*?<meta name="vmbackup-report" '
    METRICS = "metrics", rb"# HELP vmbackup_"

    def __init__(self, word: str, beginning: bytes) -> None:
        self.word = word
        self.beginning = re.compile(beginning, re.DOTALL)


@dataclass(frozen=True, slots=True)
class Kept:
    """Where nothing may be written, because it is kept for copies or for the database."""

    nas: Nas
    contents: Contents


def replace_file(
    path: Path, data: bytes, kind: FileKind, kept: Kept, like: Path | None = None
) -> Path:
    """Puts `data` into a new file, or in the place of an older one of its kind, at once.

    A reader sees the old or the new, all of it. An empty file is replaced, too; no other file, no
    link, and nothing in the state database, the archive or the directory of a VM, whatever way the
    path takes there. Everybody may read it, with `like` who may read that directory. A crash may
    leave a temporary file beside it. Returns where it really is.

    Raises `UsageError` that says why not, or for a file beside the database `NasError`; nothing is
    changed or left then.
    """
    try:
        place = Path(os.path.realpath(path.parent))
        _require_free(place, path, kind, kept)
        target = place / path.name
        _require_own(target, path, kind)
        _put(target, data, like_directory(FILE_MODE, like) if like else _MODE)
    except OSError as error:
        if path.parent == kept.nas.mountpoint:
            raise nas_error(error, f"write the {kind.word} {path}") from None
        raise UsageError(
            f"cannot write the {kind.word} to {path}: {error.strerror}",
            hint="the directory must be there, and this user must be able to write in it",
        ) from None
    return target


def _require_free(place: Path, path: Path, kind: FileKind, kept: Kept) -> None:
    """Raises `UsageError` if a directory is kept for copies or the database, OSError."""
    what = _kept_for(place, kept)
    if what:
        raise UsageError(
            f"cannot write the {kind.word} to {path}: it would lie in {what}; nothing was changed",
            hint="name a file in another directory",
        )


def _kept_for(place: Path, kept: Kept) -> str:
    """What a directory belongs to; empty: to nobody. Its real path is given. Raises OSError."""
    nas, mounts = kept.nas, list(mount_table())
    if relations(place, nas.state, mounts) & _BELOW:
        return "the state database"
    if relations(place, nas.archive, mounts) & _BELOW:
        return "the archive"
    to_nas = relations(place, nas.mountpoint, mounts)
    if Relation.SAME in to_nas:
        return ""
    if any(parse_final(name) for name in list_fresh(place)):
        return "the directory of a VM"
    if Relation.INSIDE in to_nas:
        for name in sorted(plain_names(kept.contents)):
            if relations(place, nas.mountpoint / name, mounts) & _BELOW:
                return f"the directory of a VM, {name}"
    return ""


def _require_own(target: Path, path: Path, kind: FileKind) -> None:
    """Raises `UsageError` if what is there is neither of this kind nor empty, OSError."""
    if not os.path.lexists(target):
        return
    refused = ""
    if target.is_symlink():
        refused = "it is a symbolic link"
    elif not target.is_file():
        refused = "it is there, and no ordinary file"
    else:
        with open_file(target) as file:
            beginning = file.read(_BEGINNING)
        if beginning and not kind.beginning.match(beginning):
            refused = f"the file that is there was not written as {kind.word}"
    if refused:
        raise UsageError(
            f"cannot write the {kind.word} to {path}: {refused}; it stays as it is",
            hint="name another file, or move away what is there",
        )


def _put(target: Path, data: bytes, mode: int) -> None:
    """Raises OSError; nothing is left then."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            set_mode(file.fileno(), mode)
        temporary.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
