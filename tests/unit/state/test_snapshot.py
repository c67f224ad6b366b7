"""A generation as text: what is written is read, and nothing else is."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from shared.host.errors import DatabaseDamagedError, DatabaseVersionError
from shared.state.contents import Contents
from shared.state.host_records import NodeRecord, SessionRecord
from shared.state.record_fields import is_directory_name
from shared.state.records import Claim, CopyRecord, VmRecord
from shared.state.states import State
from shared.state.store.header import Header
from shared.state.store.snapshot import decode, encode
from tests.unit.state.builders import REPOSITORY, WHEN, claimed, contents, copy, session, vm

#: Any text that Python can hold: line ends of all kinds, control characters, lone surrogates.
odd_text = some.text(some.characters(codec=None), max_size=12)
numbers = some.integers(0, 2**53)
odd_names = odd_text.filter(is_directory_name)
plain_json = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**53), 2**53) | odd_text,
    lambda inner: some.lists(inner, max_size=2) | some.dictionaries(odd_text, inner, max_size=2),
    max_leaves=4,
)


def _unknown(kind: type) -> some.SearchStrategy[dict[str, Any]]:
    known = set(kind.__dataclass_fields__)
    return some.dictionaries(
        odd_text.filter(lambda name: name not in known), plain_json, max_size=2
    )


claims = some.builds(Claim, odd_text, numbers, some.just("backup"), odd_text, extra=_unknown(Claim))
copies = some.builds(
    CopyRecord,
    odd_names,
    numbers,
    numbers,
    odd_text,
    odd_text,
    some.dictionaries(odd_text, odd_text, max_size=3),
    extra=_unknown(CopyRecord),
)
records = some.builds(
    VmRecord,
    *(odd_text for _ in range(4)),
    some.just("") | odd_names,
    some.sampled_from(State),
    odd_text,
    last_copy=some.none() | copies,
    publishing=some.none() | copies,
    claim=some.none() | claims,
    failures=numbers,
    last_error=odd_text,
    leftovers=some.booleans(),
    missing_since=some.none() | odd_text,
    extra=_unknown(VmRecord),
)
sessions = some.builds(
    SessionRecord,
    odd_text,
    numbers,
    numbers,
    some.sampled_from(["live", "ended", "expired"]),
    odd_text,
    pid=numbers,
    started=some.floats(0, 1e10),
    extra=_unknown(SessionRecord),
)
nodes = some.builds(NodeRecord, odd_text, odd_text, odd_text, extra=_unknown(NodeRecord))
databases = some.builds(
    lambda granted, nodes, sessions, vms: Contents(
        granted,
        {row.name: row for row in nodes},
        {row.id: row for row in sessions},
        {row.key: row for row in vms},
    ),
    numbers,
    some.lists(nodes, max_size=2),
    some.lists(sessions, max_size=2),
    some.lists(records, max_size=3),
)
headers = some.builds(
    Header,
    some.just(REPOSITORY),
    some.integers(1, 10**19),
    some.just("0" * 64),
    *(odd_text, numbers, *[odd_text] * 3),
)

HEADER = Header(REPOSITORY, 7, "a" * 64, "alpha.1", 3, "alpha", WHEN, "claim web01")
SMALL = contents(
    claimed(publishing=copy()),
    vm("déjà\nvu: 100 %", State.NEW),
    sessions=(session("alpha.1"), session("beta.1", "expired")),
    granted=1,
)


@pytest.mark.broad
@given(headers, databases)
def test_what_is_written_is_read(header: Header, database: Contents) -> None:
    data = encode(header, database)
    read = decode(data, header.generation)
    assert (read.header, read.contents) == (header, database)
    assert encode(read.header, read.contents) == data
    assert read.checksum == hashlib.sha256(data[: data.rindex(b"sha256 ")]).hexdigest()


@pytest.mark.broad
def test_every_truncation_is_refused() -> None:
    data = encode(HEADER, SMALL)
    for length in range(len(data)):
        with pytest.raises(DatabaseDamagedError):
            decode(data[:length], 7)


def test_every_flipped_byte_is_refused() -> None:
    data = encode(HEADER, SMALL)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x20
        with pytest.raises(DatabaseDamagedError):
            decode(bytes(damaged), 7)


def test_what_follows_the_end_is_refused() -> None:
    with pytest.raises(DatabaseDamagedError):
        decode(encode(HEADER, SMALL) + b"\n", 7)


@given(some.binary(max_size=200))
def test_any_bytes_with_a_good_checksum_are_refused_as_damaged_or_newer(noise: bytes) -> None:
    with pytest.raises((DatabaseDamagedError, DatabaseVersionError)):
        decode(_signed(noise), 7)


@given(some.integers(0, 11), some.sampled_from(["", "x", "{}", "[]", "null", "9" * 30, '{"id":1}']))
def test_a_line_replaced_by_nonsense_is_damage_and_no_crash(line: int, text: str) -> None:
    lines = encode(HEADER, SMALL).decode("utf-8", "surrogatepass").split("\n")[:-2]
    name = lines[line].partition(" ")[0]
    lines[line] = text if name.startswith("{") else f"{name} {text}"
    data = _signed("\n".join([*lines, ""]).encode("utf-8", "surrogatepass"))
    try:
        decode(data, 7)
    except (DatabaseDamagedError, DatabaseVersionError):
        return
    assert name in ("repository", "previous", "claims") or name.startswith("{"), (
        "texts and the number of claims may be anything; rows are carried on"
    )


@given(plain_json, some.sampled_from([5, 6, *range(8, 12)]))
def test_a_row_that_does_not_fit_is_carried_on_byte_for_byte_and_the_others_are_read(
    document: Any, line: int
) -> None:
    lines = encode(HEADER, SMALL).decode("utf-8", "surrogatepass").split("\n")[:-2]
    rows = [number for number, text in enumerate(lines) if text.startswith("{")]
    changed = rows[line % len(rows)]
    lines[changed] = json.dumps(document)
    read = decode(_signed("\n".join([*lines, ""]).encode("utf-8", "surrogatepass")), 7)
    (row,) = read.contents.unusable
    assert (row.line, bool(row.why), row.message.isprintable()) == (lines[changed], True, True)
    again = encode(read.header, read.contents)
    assert sorted(again.decode("utf-8", "surrogatepass").split("\n")[:-2]) == sorted(lines)
    assert decode(again, 7).contents == read.contents


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("directory", "../outside"),
        ("directory", "/outside"),
        ("directory", "VMSTATE"),
        ("directory", 7),
        ("name", None),
        ("failures", -1),
        ("failures", "1"),
        ("status", "ASLEEP"),
        ("last_copy", {"stamp": "x"}),
        ("claim", [1]),
        ("damaged", "abc"),
    ],
)
def test_a_vm_whose_record_does_not_fit_is_told_and_stops_no_other(field: str, value: Any) -> None:
    data = encode(HEADER, SMALL).decode("utf-8", "surrogatepass").split("\n")[:-2]
    (place,) = (number for number, text in enumerate(data) if text.startswith('{"key":"web01"'))
    document = {**json.loads(data[place]), field: value}
    data[place] = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    text = _signed("\n".join([*data, ""]).encode("utf-8", "surrogatepass"))
    read = decode(text, 7)
    assert list(read.contents.vms) == ["déjà\nvu: 100 %"]
    (row,) = read.contents.unusable
    assert (row.section, row.key, row.uuid) == ("vms", "web01", "uuid-web01")
    assert f"'{field}" in row.why
    assert encode(read.header, read.contents) == text


def test_two_rows_of_one_name_are_both_kept() -> None:
    text = encode(HEADER, contents(vm("a"), vm("b"))).replace(b'"key":"b"', b'"key":"a"')
    text = _signed(text[: text.rindex(b"sha256 ")])
    read = decode(text, 7)
    assert read.contents.vms["a"].uuid == "uuid-a"
    assert [row.why for row in read.contents.unusable] == ["there are two of this name"]
    assert encode(read.header, read.contents) == text


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity"])
def test_no_number_is_kept_that_json_cannot_hold(number: str) -> None:
    text = encode(HEADER, contents(vm("a", extra={"later": 1.5})))
    read = decode(_signed(text[: text.rindex(b"sha256 ")].replace(b"1.5", number.encode())), 7)
    assert ([row.key for row in read.contents.unusable], len(read.contents.vms)) == (["a"], 0)


@given(plain_json)
def test_a_header_that_does_not_fit_is_damage(document: Any) -> None:
    lines = encode(HEADER, SMALL).decode("utf-8", "surrogatepass").split("\n")[:-2]
    lines[4] = f"commit {json.dumps(document)}"
    with pytest.raises(DatabaseDamagedError):
        decode(_signed("\n".join([*lines, ""]).encode("utf-8", "surrogatepass")), 7)


def test_the_name_of_another_generation_is_refused() -> None:
    with pytest.raises(DatabaseDamagedError, match="it says that it is generation 7"):
        decode(encode(HEADER, SMALL), 8)


@pytest.mark.parametrize("version", ["1.1", "1.9", "2.0", "2.1", "3.0"])
def test_a_generation_is_read_and_written_in_its_own_format(version: str) -> None:
    data = encode(HEADER, replace(SMALL, format=version))
    assert data.startswith(f"vmbackup-state {version}\n".encode())
    assert decode(data, 7).contents == replace(SMALL, format=version)


@pytest.mark.parametrize("spoilt", [b"claims 1", b"end\n", b"sha256 "])
def test_a_newer_version_that_is_not_understood_is_not_called_damaged(spoilt: bytes) -> None:
    data = encode(HEADER, replace(SMALL, format="3.0"))
    assert spoilt in data
    with pytest.raises(DatabaseVersionError, match=r"version 3\.0"):
        decode(data.replace(spoilt, b"otherwise"), 7)


def test_fields_of_a_newer_version_are_kept_at_every_depth() -> None:
    record = claimed(
        publishing=replace(copy(), extra={"compression": "zstd"}), extra={"priority": 3}
    )
    record = replace(record, claim=replace(record.claim, extra={"reason": ["a"]}))
    database = contents(record, sessions=(session("alpha.1", extra={"cores": 8}),))
    assert decode(encode(HEADER, database), 7).contents == database


def test_it_can_be_read_by_a_person() -> None:
    lines = encode(HEADER, SMALL).decode().splitlines()
    assert lines[1:4] == [f"repository {REPOSITORY}", "generation 7", f"previous {'a' * 64}"]
    assert '"reason":"claim web01"' in lines[4]
    assert any(line.startswith('{"key":"déjà\\nvu: 100 %"') for line in lines)


def _signed(body: bytes) -> bytes:
    return body + f"sha256 {hashlib.sha256(body).hexdigest()}\n".encode()


def test_a_row_and_a_reason_of_many_megabytes_come_back() -> None:
    long = "x" * (3 << 20)
    header = replace(HEADER, reason=long)
    made = replace(SMALL, vms={"web01": vm("web01", last_error=long)})
    read = decode(encode(header, made), header.generation)
    assert (read.header, read.contents) == (header, made)
