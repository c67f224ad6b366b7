"""The one door for XML: VirtualBox's settings files, and its descriptions of VMs in copies.

Whatever a file holds, reading it ends soon, and in one kind of error: a document type, which could
define entities that expand without end or name files of this host, is refused, and so is what is
longer than its reader expects. (`defusedxml` would do the first only.)

Names are given without the prefix of their namespace: `href` for `ovf:href`.
"""

from collections.abc import Callable, Mapping
from typing import Final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

__all__ = ["WRITABLE_DEPTH", "Element", "XmlError", "parse_xml", "scan_xml"]

_MEBIBYTE: Final = 2**20
#: Elements take more room in memory than their text in a file.
_ELEMENTS_LIMIT: Final = 1_000_000
#: Whoever writes a tree again walks down into it, which Python does not do without end. VirtualBox
#: nests 250 snapshots, each in two elements, and 300 disks.
WRITABLE_DEPTH: Final = 600


class XmlError(Exception):
    """A file cannot be used; the message follows on the file's name: "is damaged: …"."""


def parse_xml(
    data: bytes, *, limit: int, depth: int | None = None, most_elements: int = _ELEMENTS_LIMIT
) -> Element:
    """The tree of elements. Raises `XmlError`, also for more than `limit` bytes.

    And for more than `most_elements`, and for such as are nested more deeply than `depth`; None:
    they may be.
    """
    builder = TreeBuilder()
    parser, bounds = _parser(), _Bounds(depth, most_elements)

    def start(name: str, attributes: dict[str, str]) -> None:
        bounds.begin()
        builder.start(_local(name), _local_keys(attributes))

    def end(name: str) -> None:
        bounds.end()
        builder.end(_local(name))

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    _run(parser, data, limit)
    return builder.close()


def scan_xml(data: bytes, start: Callable[[str, Mapping[str, str]], None], *, limit: int) -> None:
    """Calls `start` with name and attributes of each element, and keeps nothing of it in memory.

    Raises `XmlError`, also for more than `limit` bytes.
    """
    parser = _parser()
    parser.StartElementHandler = lambda name, attributes: start(
        _local(name), _local_keys(attributes)
    )
    _run(parser, data, limit)


class _Bounds:
    """Counts elements, and how deeply they are nested. Raises `XmlError` at the first too many."""

    def __init__(self, depth: int | None, most_elements: int) -> None:
        self._limit, self._most_elements = depth, most_elements
        self._elements = self._depth = 0

    def begin(self) -> None:
        self._elements, self._depth = self._elements + 1, self._depth + 1
        if self._elements > self._most_elements:
            raise XmlError(f"has more than {self._most_elements} elements")
        if self._limit is not None and self._depth > self._limit:
            raise XmlError(f"is nested more than {self._limit} deep")

    def end(self) -> None:
        self._depth -= 1


def _parser() -> expat.XMLParserType:
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse
    return parser


def _run(parser: expat.XMLParserType, data: bytes, limit: int) -> None:
    if len(data) > limit:
        raise XmlError(f"is longer than {limit // _MEBIBYTE} MiB")
    try:
        parser.Parse(data, True)  # noqa: FBT003 - expat takes no keyword: this is the last piece
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise XmlError(f"is damaged: {error}") from None


def _refuse(*_declaration: object) -> None:
    raise XmlError("declares a document type (DOCTYPE), which VirtualBox never does")


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _local_keys(attributes: dict[str, str]) -> dict[str, str]:
    return {_local(key): value for key, value in attributes.items()}
