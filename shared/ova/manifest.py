"""The manifest of an `.ova`: which digest each of its members has. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from shared.host.errors import CopyError

#: It is longer in no copy of a VM, and is read into memory.
MANIFEST_LIMIT: Final = 1 << 20

_DIGITS: Final[Mapping[str, int]] = {"SHA1": 40, "SHA256": 64}
_LINE: Final = re.compile(r"(SHA1|SHA256) ?\((.+)\) ?= ?([0-9a-f]+)")
#: What stands there instead of a disk that nobody has read as a whole. VirtualBox (7.2) refuses a
#: disk of another size.
_SIZE: Final = re.compile(r"SIZE \((.+)\) = ([0-9]{1,19})")
_UNLISTED: Final = re.compile(r"[\x00-\x1f():\\\x7f]")


@dataclass(frozen=True, slots=True)
class ManifestDigest:
    """The digest of one member: `sha1` or `sha256`, and the value in lower-case hexadecimal."""

    algorithm: str
    value: str


def parse_manifest(data: bytes) -> dict[str, ManifestDigest]:
    """Digests by member name.

    Raises `CopyError` for the first line that is not one: VirtualBox itself would ignore it.
    """
    digests: dict[str, ManifestDigest] = {}
    for number, line in enumerate(
        data.decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n"), 1
    ):
        if not line.strip() or _SIZE.fullmatch(line):
            continue
        match = _LINE.fullmatch(line)
        if not match or len(match[3]) != _DIGITS[match[1]]:
            raise CopyError(f"line {number} of the manifest is damaged")
        if match[2] in digests:
            raise CopyError(f"the manifest has {match[2]!r} twice")
        digests[match[2]] = ManifestDigest(match[1].lower(), match[3])
    if not data.endswith(b"\n"):
        raise CopyError("the manifest is cut off")
    return digests


def listed_sizes(data: bytes) -> dict[str, int]:
    """The sizes in bytes that the manifest has of members whose digest it has not."""
    text = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    return {
        found[1]: int(found[2]) for line in text.split("\n") if (found := _SIZE.fullmatch(line))
    }


def render_manifest(members: Iterable[tuple[str, int, str]]) -> bytes:
    """The manifest of members with these names, sizes in bytes, and SHA-256 digests.

    Of one whose digest is not known (empty) it has the size.
    """
    return "".join(
        f"SHA256 ({name}) = {sha256}\n" if sha256 else f"SIZE ({name}) = {size}\n"
        for name, size, sha256 in members
    ).encode()


def left_out_by_virtualbox(name: str) -> bool:
    """Whether VirtualBox (7.2) silently leaves the disk of this name out of its manifest.

    `web (1)-disk001.vmdk` is such a name.
    """
    return bool(_UNLISTED.search(name))
