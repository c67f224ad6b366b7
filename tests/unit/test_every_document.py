"""Every kind of document that others may have written, whatever they wrote.

Kinds are found in the code, so that a new one is here as soon as it is declared.
"""

import importlib
import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as some

import coordinator
import shared
import worker
from shared.host.document_fields import FieldCheck
from shared.host.documents import Document

for _package in (coordinator, shared, worker):
    for _file in Path(_package.__path__[0]).rglob("*.py"):
        if "(Document)" in _file.read_text(encoding="utf-8"):
            _below = _file.relative_to(Path(_package.__path__[0]).parent).with_suffix("")
            importlib.import_module(".".join(_below.parts))


def _kinds(kind: type[Document]) -> Iterator[type[Document]]:
    for below in kind.__subclasses__():
        # `slots=True` makes each class anew: the one that its module has counts
        there = getattr(importlib.import_module(below.__module__), below.__name__, None)
        if there is below and not below.__module__.startswith("tests."):
            yield below
        yield from _kinds(below)


KINDS = sorted(_kinds(Document), key=lambda kind: (kind.__module__, kind.__name__))

#: Texts among which there is one for every field that takes only some.
_TEXTS = [
    "",
    "web01",
    "20261122T203800Z-17",
    "2026-11-22T20:38:00Z",
    "0" * 64,
    "日本\n\u202e",
    "../x",
    "/v/a.vdi",
]
LATER = "of the future"
odd_json = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-(2**70), 2**70)
    | some.floats(allow_nan=False, allow_infinity=False)
    | some.text(some.characters(codec=None), max_size=8),
    lambda inner: some.lists(inner, max_size=2) | some.dictionaries(some.text(), inner, max_size=2),
    max_leaves=4,
)


def fitting(annotation: Any) -> some.SearchStrategy[Any]:
    """JSON values that a field of this type may have."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _annotated(inner[0], inner[1:])
    if origin in (typing.Union, types.UnionType):
        made = some.one_of(*(fitting(each) for each in inner))
    elif origin is Literal:
        made = some.sampled_from(inner)
    elif origin is tuple:
        made = some.lists(fitting(inner[0]), max_size=2)
    elif origin is not None and issubclass(origin, Mapping):
        made = some.dictionaries(fitting(inner[0]), fitting(inner[1]), max_size=2)
    else:
        made = _plain(annotation)
    return made


def _annotated(kind: Any, marks: tuple[Any, ...]) -> some.SearchStrategy[Any]:
    checks = [each for each in marks if isinstance(each, FieldCheck)]
    if checks and kind is str:
        texts = [text for text in _TEXTS if all(check.holds(text) for check in checks)]
        return some.sampled_from(texts)
    bounds = [int(each.le) for each in marks if getattr(each, "le", None) is not None]
    if bounds:
        return some.integers(1, min(2**40, *bounds))
    return fitting(kind).filter(lambda value: all(check.holds(value) for check in checks))


def _plain(kind: Any) -> some.SearchStrategy[Any]:
    plain: dict[Any, some.SearchStrategy[Any]] = {
        Any: odd_json,
        bool: some.booleans(),
        float: some.floats(0, 2**40),
        int: some.integers(0, 2**40),
        str: some.sampled_from(_TEXTS),
        type(None): some.none(),
    }
    if kind in plain:
        return plain[kind]
    if issubclass(kind, Enum):
        return some.sampled_from([each.value for each in kind])
    assert issubclass(kind, Document), f"what values has a field of type {kind}?"
    return documents(kind)


def _is_needed(field: "Field[Any]") -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def documents(kind: type[Document]) -> some.SearchStrategy[dict[str, Any]]:
    """JSON objects with the fields of a kind, and of the future where it keeps these."""
    hints = typing.get_type_hints(kind, include_extras=True)
    known = [field for field in fields(kind) if field.name != "extra"]
    values = {field.name: fitting(hints[field.name]) for field in known}
    needed = {field.name for field in known if _is_needed(field)}
    made = some.fixed_dictionaries(
        {name: values[name] for name in values if name in needed},
        optional={name: values[name] for name in values if name not in needed},
    )
    if "extra" not in hints:
        return made
    return some.builds(
        lambda document, later: {**later, **document},
        made,
        some.dictionaries(some.sampled_from([LATER, "ž", ""]), odd_json, max_size=2),
    )


@some.composite
def spoilt(draw: some.DrawFn, kind: type[Document]) -> Any:
    """Such an object in which one value, at any depth, is anything; or is not there."""
    document = json.loads(json.dumps(draw(documents(kind))))
    place: Any = document
    while True:
        names = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not names:
            return draw(odd_json)
        name = draw(some.sampled_from(names))
        if isinstance(place[name], dict | list) and place[name] and draw(some.booleans()):
            place = place[name]
        elif isinstance(place, dict) and draw(some.booleans()):
            del place[name]
            return document
        else:
            place[name] = draw(odd_json)
            return document


def keeps(read: Document, document: dict[str, Any]) -> bool:
    """Whether what was read is written as it is, with all fields that are not known here."""
    written = json.loads(json.dumps(read.to_json()))
    known = {field.name for field in fields(read)} - {"extra"}
    later = {name: value for name, value in document.items() if name not in known}
    return (
        type(read).from_json(written) == read
        and _of_the_future(written) == _of_the_future(document)
        and (not hasattr(read, "extra") or later == read.extra)  # type: ignore[attr-defined]
    )


def _of_the_future(document: Any) -> int:
    """How many such fields there are, at any depth."""
    if isinstance(document, dict):
        return sum(_of_the_future(each) for each in document.values()) + (LATER in document)
    return sum(map(_of_the_future, document)) if isinstance(document, list) else 0


def test_all_kinds_are_found() -> None:
    names = {kind.__name__ for kind in KINDS}
    assert {"VmRecord", "SessionRecord", "CopyRecord", "Claim", "Power", "Sidecar"} <= names, names


@pytest.mark.broad
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_fits_is_read_and_written_with_the_fields_of_the_future(kind: type[Document]) -> None:
    @given(documents(kind))
    def reads(document: dict[str, Any]) -> None:
        assert keeps(kind.from_json(document), document)

    reads()


@pytest.mark.broad
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_does_not_fit_is_refused_in_one_sentence(kind: type[Document]) -> None:
    @given(spoilt(kind) | odd_json)
    def refused_or_read(document: Any) -> None:
        read: Document | None = None
        why = ""
        try:
            read = kind.from_json(document)
        except ValueError as error:
            why = str(error)
        assert keeps(read, document) if read else 0 < len(why) < 400
        assert why.isprintable()

    refused_or_read()
