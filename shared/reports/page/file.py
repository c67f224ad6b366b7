"""The file of the page: where it is, what the last writer noted in it, and how it is replaced."""

import contextlib
import html
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from shared.host.configuration import Configuration
from shared.host.document_fields import Count
from shared.host.documents import Document, load
from shared.nas.reading import open_file
from shared.reports.whole_file import FileKind, Kept, replace_file

#: What is noted stands at the beginning, in so many bytes.
_BEGINNING: Final = 1 << 14
_META: Final = re.compile(rb'<meta name="vmbackup-page" content="([^"<>]*)">')
#: A temporary file that is so much older than the page was left by a writer that died.
_LEFT_SECONDS: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Former(Document):
    """What a page says of itself: times in seconds since the epoch, by its writer's clock."""

    schema: Literal[1]
    repository: str
    generation: Count
    written: Count
    valid: Count


def place(configuration: Configuration) -> Path | None:
    """Where workers write the page: a plain name is one beside the database. None: nowhere."""
    file = configuration.page.file
    return None if file == Path() else configuration.nas.mountpoint / file


def former(path: Path) -> Former | None:
    """What the page that is there says of itself; None if there is none, or nothing to be read."""
    try:
        with open_file(path, follow=False) as file:
            beginning = file.read(_BEGINNING)
        found = _META.search(beginning)
        if found is None:
            return None
        return Former.from_json(load(html.unescape(found[1].decode()), _BEGINNING))
    except (OSError, ValueError, RecursionError):
        return None


def write(path: Path, data: bytes, kept: Kept, like: Path | None = None) -> None:
    """Puts the page in the place of the one before, at once: a reader sees the old or the new one.

    Everybody may read it who may read the directory `like`, without it that of the page. A crash
    leaves the old one, and a temporary file, which a later writer removes. Raises what says why it
    cannot: `NasError` for one beside the database, else `UsageError`.
    """
    target = replace_file(path, data, FileKind.PAGE, kept, like or path.parent)
    with contextlib.suppress(OSError):
        _sweep(target)


def _sweep(path: Path) -> None:
    """Removes what writers of this page that died have left, a day ago by the NAS's own clock."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}")
    left = [name for name in os.listdir(path.parent) if pattern.fullmatch(name)]
    for other in map(path.with_name, left):
        with contextlib.suppress(OSError):
            if os.stat(path).st_mtime - os.lstat(other).st_mtime > _LEFT_SECONDS:
                other.unlink()
