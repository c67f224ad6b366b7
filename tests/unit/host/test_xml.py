"""Whatever is given for XML, reading it ends soon and in one kind of error."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from shared.host.xml import XmlError, parse_xml, scan_xml

LIMIT = 2**20


def test_a_tree_has_names_without_prefixes() -> None:
    tree = parse_xml(b'<o:A o:id="1"><b x="&lt;">text</b></o:A>', limit=LIMIT)
    assert (tree.tag, tree.attrib) == ("A", {"id": "1"})
    assert [(each.tag, each.attrib, each.text) for each in tree] == [("b", {"x": "<"}, "text")]


def test_elements_are_met_in_order() -> None:
    met: list[tuple[str, dict[str, str]]] = []
    scan_xml(
        b'<o:A o:id="1"><b/></o:A>',
        lambda name, attributes: met.append((name, dict(attributes))),
        limit=LIMIT,
    )
    assert met == [("A", {"id": "1"}), ("b", {})]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged"),
        (b"<a>", "damaged"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "damaged"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "DOCTYPE"),
        (b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", "DOCTYPE"),
        (b"<a>&b;</a>", "damaged"),
        (b"<a>" + bytes(LIMIT) + b"</a>", "longer than 1 MiB"),
    ],
)
def test_what_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(XmlError, match=reason):
        parse_xml(data, limit=LIMIT)
    with pytest.raises(XmlError, match=reason):
        scan_xml(data, lambda _name, _attributes: None, limit=LIMIT)


@given(some.binary(max_size=200) | some.text("<>/a=\"'&;![]-? :", max_size=60).map(str.encode))
def test_any_bytes(data: bytes) -> None:
    for read in (parse_xml, lambda data, limit: scan_xml(data, lambda *_: None, limit=limit)):
        try:
            read(data, limit=LIMIT)
        except XmlError:
            continue
