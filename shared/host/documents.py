"""JSON documents that others may have written: read strictly into frozen dataclasses, and written.

A kind of document is a frozen, slotted dataclass that inherits `Document`. Its annotations are all
that is said of its fields; pydantic checks them:

    @dataclass(frozen=True, slots=True)
    class SideFile(Document):
        size: Count
        sha256: Sha256
        names: Annotated[tuple[PlainName, ...], FROM_JSON] = ()
        extra: Mapping[str, Any] = field(default_factory=dict)

`SideFile.from_json(...)` gives a SideFile or raises one `ValueError`, whatever it is given. Nothing
is converted: a number is no text, and a text no number. With a field `extra`, fields that this
version does not know are kept there and written again; without one, they are passed over. Documents
may be fields of documents. pydantic is imported when the first document is read.
"""

import errno
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar, cast

from shared.host.document_fields import FROM_JSON

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, TypeAdapter, ValidationError
    from pydantic_core import CoreSchema

T = TypeVar("T")

#: Longer than any document that a program writes, in characters or bytes.
LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON object. The module says how a kind of document is declared."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {
        "strict": True,
        "allow_inf_nan": False,
        "extra": "forbid",
    }

    @classmethod
    def from_json(cls, document: object) -> Self:
        """The document that these JSON values are.

        Raises `ValueError` with a sentence about the first field that is missing or wrong.
        """
        return read(cls, document)

    def to_json(self) -> dict[str, Any]:
        """The document as JSON values. Fields that have their default are left out."""
        values: dict[str, Any] = {}
        kind: Any = type(self)
        for name, default in _defaults(kind):
            value = getattr(self, name)
            if default is MISSING or value != default:
                values[name] = _values(value)
        return {**values, **getattr(self, "extra", {})}

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type, handler: "GetCoreSchemaHandler"
    ) -> "CoreSchema":
        """For pydantic: a JSON object gives a document, with its unknown fields in `extra`."""
        from pydantic_core import core_schema

        schema = FROM_JSON.__get_pydantic_core_schema__(source, handler)
        # pydantic refers to a class that it meets again by this schema: it is changed in its place.
        plain: Any = handler.resolve_ref_schema(schema)
        if plain["type"] != "dataclass":
            return schema
        names = {item.name for item in fields(cls)}
        known = frozenset(names - {"extra"})

        def gather(document: object) -> object:
            if not isinstance(document, dict) or known.issuperset(document):
                return document
            values = {name: value for name, value in document.items() if name in known}
            if "extra" in names:
                values["extra"] = {
                    name: value for name, value in document.items() if name not in known
                }
            return values

        inner = {name: value for name, value in plain.items() if name != "ref"}
        gathered: Any = core_schema.no_info_before_validator_function(
            gather, cast("CoreSchema", inner), ref=plain.get("ref")
        )
        plain.clear()
        plain.update(gathered)
        return schema


def _values(value: Any) -> Any:  # noqa: ANN401 - any type of a field
    """A field as JSON values: documents may be fields, and values of mappings and tuples."""
    if isinstance(value, Document):
        return value.to_json()
    if isinstance(value, tuple):
        return tuple(_values(each) for each in value)
    if isinstance(value, Mapping):
        return {name: _values(each) for name, each in value.items()}
    return value


def read(kind: type[T], document: object) -> T:
    """JSON values as a `kind`: a document, or any type of them, like `dict[str, SideFile]`.

    Raises `ValueError` with one sentence about the first thing that is wrong.
    """
    from pydantic import ValidationError

    try:
        shape: Any = kind
        value: T = _adapter(shape).validate_python(document)
    except ValidationError as error:
        raise ValueError(_sentence(error)) from None
    return value


def prepare(*kinds: type[Document]) -> None:
    """Makes the checks of these kinds now, and not when the first one of each is read.

    That is for a process which forks others that all read some: they have the checks then.
    """
    shape: Any
    for shape in kinds:
        _adapter(shape)


def load(text: str | bytes, limit: int = LIMIT) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """The values of a JSON text of at most `limit` characters or bytes.

    Raises `ValueError` with a sentence if it is none: also for what only Python takes for JSON
    (NaN, infinities), and for what is nested too deeply.
    """
    if len(text) > limit:
        raise ValueError(f"it is longer than {limit} characters")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogatepass")
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is no UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error.msg} at character {error.pos})") from None


def read_own(path: Path) -> bytes:
    """The bytes of a small file of this host, `LIMIT` + 1 at most: more is no file of ours.

    A pipe is not waited for. Raises OSError, also if it is no ordinary file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENXIO, "it is no ordinary file", str(path))
        return os.read(descriptor, LIMIT + 1)
    finally:
        os.close(descriptor)


def _no_number(text: str) -> float:
    raise ValueError(f"it has a number that JSON cannot hold ({text[:20]})")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_no_number)


@cache
def _adapter(kind: Any) -> "TypeAdapter[Any]":  # noqa: ANN401 - any type

    from pydantic import ConfigDict, TypeAdapter

    if isinstance(kind, type) and issubclass(kind, Document):
        return TypeAdapter(kind)
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


@cache
def _defaults(kind: Any) -> tuple[tuple[str, object], ...]:  # noqa: ANN401 - a dataclass
    """The names of the fields of a class that are written, and their defaults."""
    return tuple(
        (item.name, item.default if item.default_factory is MISSING else item.default_factory())
        for item in fields(kind)
        if item.name != "extra"
    )


#: What pydantic finds wrong, in words of JSON.
_WORDS: Final[Mapping[str, str]] = {
    "missing": "is missing",
    "string_type": "is no text",
    "int_type": "is no whole number",
    "bool_type": "is neither true nor false",
    "tuple_type": "is no list",
    "mapping_type": "is no JSON object",
    "dict_type": "is no JSON object",
    "dataclass_type": "is no JSON object",
}


def _sentence(error: "ValidationError") -> str:
    """What is wrong in the first place, in words that can be shown anywhere."""
    problem = error.errors(include_url=False, include_input=False)[0]
    path = ".".join(str(part) for part in problem["loc"])
    where = f"the field {path[:80]!a}" if path else "it"
    what = problem["msg"]
    if problem["type"] in _WORDS:
        return f"{where} {_WORDS[problem['type']]}"
    if problem["type"] == "value_error":
        return f"{where} is {problem['ctx']['error']}"
    return f"{where} is wrong: {what[:1].lower()}{what[1:]}"
