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

__all__ = ["Element", "XmlError", "parse_xml", "scan_xml"]

_MEBIBYTE: Final = 2**20


class XmlError(Exception):
    """A file cannot be used; the message follows on the file's name: "is damaged: …"."""


def parse_xml(data: bytes, *, limit: int) -> Element:
    """The tree of elements. Raises `XmlError`, also for more than `limit` bytes."""
    builder = TreeBuilder()
    parser = _parser()
    parser.StartElementHandler = lambda name, attributes: builder.start(
        _local(name), _local_keys(attributes)
    )
    parser.EndElementHandler = lambda name: builder.end(_local(name))
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
