"""The two descriptions inside an `.ova`.

Its manifest (which digest each member has) and its `.ovf` (which files it refers to). Pure.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from xml.parsers import expat

from shared.host.errors import CopyError

#: Neither is longer in any copy of a VM; both are read into memory.
MANIFEST_LIMIT: Final = 1 << 20
OVF_LIMIT: Final = 16 << 20

_DIGITS: Final[Mapping[str, int]] = {"SHA1": 40, "SHA256": 64}
_LINE: Final = re.compile(r"(SHA1|SHA256) ?\((.+)\) ?= ?([0-9a-f]+)")
_UNLISTED: Final = re.compile(r"[\x00-\x1f():\\\x7f]")


@dataclass(frozen=True, slots=True)
class Digest:
    """What the manifest says of one member.

    `sha1` or `sha256`, and the value in lower-case hexadecimal.
    """

    algorithm: str
    value: str


def parse_manifest(data: bytes) -> dict[str, Digest]:
    """Digests by member name.

    Raises `CopyError` for the first line that is not one: VirtualBox itself would ignore it.
    """
    digests: dict[str, Digest] = {}
    for number, line in enumerate(
        data.decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n"), 1
    ):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if not match or len(match[3]) != _DIGITS[match[1]]:
            raise CopyError(f"line {number} of the manifest is damaged")
        if match[2] in digests:
            raise CopyError(f"the manifest has {match[2]!r} twice")
        digests[match[2]] = Digest(match[1].lower(), match[3])
    if not data.endswith(b"\n"):
        raise CopyError("the manifest is cut off")
    return digests


def left_out_by_virtualbox(name: str) -> bool:
    """Whether VirtualBox (7.2) writes a manifest without the disk of this name, and says nothing: `web (1)-disk001.vmdk` is one."""
    return bool(_UNLISTED.search(name))


def references(ovf: bytes) -> frozenset[str]:
    """The files that an `.ovf` refers to.

    Raises `CopyError` if it is not well-formed, no `.ovf`, or declares entities.
    """
    found: set[str] = set()
    roots: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(":")[2]
        if not roots:
            roots.append(local)
        if local == "File":
            found.update(
                value for key, value in attributes.items() if key.rpartition(":")[2] == "href"
            )

    def refuse(*_: object) -> None:
        raise CopyError("the .ovf declares a document type")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(ovf, True)  # noqa: FBT003 - this is the last piece
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise CopyError(f"the .ovf is damaged: {error}") from None
    if roots != ["Envelope"]:
        raise CopyError("the .ovf is no description of a VM")
    return frozenset(found)
