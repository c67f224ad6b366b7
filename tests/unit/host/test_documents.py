"""Documents that others may have written: read as what they are meant to be, or refused."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as some

from shared.host.document_fields import FROM_JSON, Count, Number, PlainName, Sha256
from shared.host.documents import LIMIT, Document, load, read


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Part(Document):
    name: PlainName
    size: Count = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Closed(Document):
    """Without a field `extra`."""

    name: str


@dataclass(frozen=True, slots=True)
class Whole(Document):
    colour: Annotated[Colour, FROM_JSON]
    text: str = ""
    good: bool = False
    started: Number = 0
    sha256: Sha256 | None = None
    mode: Literal["fast", "slow"] | None = None
    first: Part | None = None
    second: Part | None = None
    words: Annotated[tuple[str, ...], FROM_JSON] = ()
    marks: Mapping[str, str] = field(default_factory=dict)
    closed: Closed | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


odd_text = some.text(some.characters(codec=None), max_size=8)
values = some.recursive(
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats(allow_nan=True)
    | odd_text
    | some.sampled_from(["red", "fast", "a" * 64]),
    lambda inner: (
        some.lists(inner, max_size=3)
        | some.dictionaries(
            odd_text | some.sampled_from([*Whole.__dataclass_fields__, "name", "size"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
names = some.text("abc.", min_size=3, max_size=8)
unknown = some.dictionaries(
    odd_text.filter(lambda name: name not in {*Whole.__dataclass_fields__, "name", "size"}),
    some.none() | some.integers() | odd_text | some.lists(some.booleans(), max_size=2),
    max_size=2,
)
parts = some.builds(Part, names, some.integers(0, 2**63 - 1), unknown)
wholes = some.builds(
    Whole,
    some.sampled_from(Colour),
    odd_text,
    some.booleans(),
    some.integers(0, 2**40) | some.floats(0, 1e10),
    some.none() | some.just("f" * 64),
    some.none() | some.just("slow"),
    some.none() | parts,
    some.none() | parts,
    some.lists(odd_text, max_size=3).map(tuple),
    some.dictionaries(odd_text, odd_text, max_size=2),
    extra=unknown,
)


@given(values)
def test_any_values_give_a_document_or_one_sentence(document: Any) -> None:
    for kind in (Whole, Part, Closed, dict[str, Part]):
        try:
            found = read(kind, document)
        except ValueError as error:
            sentence = str(error)
            assert sentence
            assert sentence.isprintable()
            assert sentence.isascii()
        else:
            assert isinstance(found, Document | dict)


@given(wholes)
def test_what_is_written_is_read_and_written_again_byte_for_byte(document: Whole) -> None:
    text = json.dumps(document.to_json())
    found = Whole.from_json(load(text))
    assert found == document
    assert json.dumps(found.to_json()) == text


def test_fields_from_the_future_are_kept_at_every_level_and_without_extra_passed_over() -> None:
    text = {
        "colour": "red",
        "first": {"name": "a", "later": [1]},
        "second": {"name": "b", "extra": {"later": 2}},
        "closed": {"name": "c", "later": 3},
        "later": {"still": None},
    }
    found = Whole.from_json(text)
    assert found.closed == Closed("c")
    assert found.to_json() == {**text, "closed": {"name": "c"}}
    assert replace(found, text="x").extra == {"later": {"still": None}}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ([], "it is no JSON object"),
        ({}, "the field 'colour' is missing"),
        ({"colour": "green"}, "the field 'colour' is wrong: input should be 'red' or 'blue'"),
        ({"text": 1}, "the field 'text' is no text"),
        ({"text": None}, "the field 'text' is no text"),
        ({"good": 1}, "the field 'good' is neither true nor false"),
        ({"good": "yes"}, "the field 'good' is neither true nor false"),
        ({"started": float("nan")}, "the field 'started' is no number"),
        ({"started": float("inf")}, "the field 'started' is no number"),
        ({"started": -1}, "the field 'started' is no number"),
        ({"started": True}, "the field 'started' is no number"),
        ({"started": "1"}, "the field 'started' is no number"),
        ({"sha256": "a" * 63}, "the field 'sha256' is no SHA-256 checksum"),
        ({"mode": "faster"}, "the field 'mode' is wrong: input should be 'fast' or 'slow'"),
        ({"first": []}, "the field 'first' is no JSON object"),
        ({"first": {}}, "the field 'first.name' is missing"),
        ({"second": {"name": "../x"}}, "the field 'second.name' is no plain name of a file"),
        ({"words": "abc"}, "the field 'words' is no list"),
        ({"words": {"a": 1}}, "the field 'words' is no list"),
        ({"words": [1]}, "the field 'words.0' is no text"),
        ({"marks": {"a": 1}}, "the field 'marks.a' is no text"),
        ({"marks": []}, "the field 'marks' is no JSON object"),
    ],
)
def test_what_does_not_fit_is_named(wrong: Any, sentence: str) -> None:
    document = {"colour": "red", **wrong} if wrong else wrong
    with pytest.raises(ValueError, match=r"^the field|^it") as caught:
        Whole.from_json(document)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("size", [-1, 1 << 63, 1.0, 1.5, "1", True, None, 10**400])
def test_counts_are_whole_numbers_within_bounds(size: Any) -> None:
    with pytest.raises(ValueError, match="the field 'size' is "):
        Part.from_json({"name": "a", "size": size})


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "/etc", "../a", "a\0", "ä" * 128, "a" * 256, "\ud800", "a\udfffb"],
)
def test_a_plain_name_leads_to_one_file_and_nowhere_else(name: str) -> None:
    with pytest.raises(ValueError, match="no plain name of a file"):
        Part.from_json({"name": name})


@pytest.mark.parametrize("name", [".hidden", "ä b", "日本", "\udcff", "...", "a" * 255])
def test_odd_names_are_plain_all_the_same(name: str) -> None:
    assert Part.from_json({"name": name}).name == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        '{"a": Infinity}',
        "[-Infinity]",
        "1e999",
        '{"a": [-1e400]}',
        "9" * 5000,
        "[" * 100_000,
        '{"a":' * 50_000,
        " " * (LIMIT + 1),
        b"\xff\xfe",
        b"{}\x80",
        "{} {}",
    ],
)
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        load(text)
    assert len(str(caught.value)) < 200


@given(some.binary(max_size=50) | odd_text)
def test_any_text_gives_values_or_one_error(text: bytes | str) -> None:
    with contextlib.suppress(ValueError):
        load(text)


@pytest.mark.broad
def test_pydantic_is_not_imported_before_a_document_is_read() -> None:
    code = "import sys, shared.host.documents; print('pydantic' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
