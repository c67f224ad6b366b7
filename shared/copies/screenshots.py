"""The screenshot beside a copy, `<stamp>.png`: what its guest showed when it was rehearsed.

It is an image from a guest: it is kept for people, and nothing ever depends on it. The copy is as
good without it, and a screenshot that is no more what the sidecar says is passed over, and goes
with the copy.
"""

from pathlib import Path
from typing import Final

from shared.copies import permits
from shared.copies.copy_files import NasFiles
from shared.copies.names import final_name, parse_final, partial_name
from shared.copies.side_files import keep as keep_side_file
from shared.copies.sidecar_fields import Screenshot
from shared.nas.nas_errors import reported
from shared.nas.reading import look, look_twice

#: One that is larger is not kept: a screen of the usual sizes has a tenth of it.
LIMIT_BYTES: Final = 8 << 20
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def unusable(image: bytes) -> str:
    """Why an image is not kept; empty: it is."""
    if not image.startswith(_SIGNATURE):
        return "it is no PNG image"
    return f"it has more than {LIMIT_BYTES >> 20} MiB" if len(image) > LIMIT_BYTES else ""


def keep(
    files: NasFiles, directory: Path, stamp: str, claim: int, image: bytes, time: str
) -> Screenshot:
    """Puts an image beside a published copy, in the place of an older one.

    Returns what its sidecar is to say of it; the caller, who holds `claim`, writes that next. After
    a crash before that the image is passed over. Raises `NasError`, `CopyError`.
    """
    temporary = partial_name(stamp, claim, "png")
    side = keep_side_file(files, directory, temporary, [image])
    with reported(f"write the screenshot of {stamp}"):
        files.rename(directory, temporary, final_name(stamp, "png"))
        files.sync_directory(directory)
    return Screenshot(time, side.size, side.sha256)


def remove_unneeded(files: NasFiles, directory: Path) -> None:
    """Removes screenshots of which no copy is there, or whose sidecar tells of none.

    An older program lets a copy go without its screenshot. Raises `NasError`.
    """
    with reported(f"look at {directory}"):
        found = [parsed for name in look_twice(directory) if (parsed := parse_final(name))]
    for stamp, suffix in found:
        if suffix == "png" and (permit := permits.unneeded_screenshot(directory, stamp)):
            with reported(f"remove the screenshot of {stamp}"):
                for name in permit.names & look(directory).keys():
                    files.remove_published(permit, name)
                files.sync_directory(directory)
