"""Whatever is given for XML, reading it ends soon and in one kind of error."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from shared.host.xml import XmlError, parse_xml, scan_xml
from shared.virtualbox.settings import SettingsError
from shared.virtualbox.settings_writing import parse_settings, render_settings

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


def test_what_is_nested_without_end_is_refused_and_what_virtualbox_nests_is_not() -> None:
    """Whoever writes a tree again walks down into it."""
    nested = b"<VirtualBox><Machine>" + b"<a>" * 598 + b"</a>" * 598 + b"</Machine></VirtualBox>"
    assert parse_settings(render_settings(parse_settings(nested))).tag == "VirtualBox"
    with pytest.raises(SettingsError, match="600 deep"):
        parse_settings(nested.replace(b"<Machine>", b"<Machine><b>" + b"<c>" * 600))


def test_elements_without_end_are_refused() -> None:
    allowed = b"<a>" + b"<b/>" * 999 + b"</a>"
    assert len(parse_xml(allowed, limit=LIMIT, most_elements=1000)) == 999
    with pytest.raises(XmlError, match="1000 elements"):
        parse_xml(allowed.replace(b"</a>", b"<b/></a>"), limit=LIMIT, most_elements=1000)
