"""What the fields of documents may be, for annotations: bounded numbers, plain names, digests."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from annotated_types import Interval

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

T = TypeVar("T")

#: What the system calls the longest name of a file, in bytes.
_LONGEST_NAME: Final = 255
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FieldCheck:
    """What a field must be besides its type, as an annotation: `Annotated[str, FieldCheck(...)]`.

    Where `holds` says no, the error is "the field … is `what`".
    """

    holds: Callable[[Any], bool]
    what: str

    def __get_pydantic_core_schema__(
        self, source: type, handler: "GetCoreSchemaHandler"
    ) -> "CoreSchema":
        """For pydantic: the type is checked first, then this."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self, handler(source))

    def __call__(self, value: T) -> T:
        """The value. Raises `ValueError` if it is not what it must be."""
        if not self.holds(value):
            raise ValueError(self.what)
        return value


class _FromJson:
    """For fields of types that JSON has no values of."""

    def __get_pydantic_core_schema__(
        self, source: type, handler: "GetCoreSchemaHandler"
    ) -> "CoreSchema":
        schema = handler(source)
        plain: Any = handler.resolve_ref_schema(schema)
        plain["strict"] = False
        return schema


class _WholeOrNot:
    """For numbers with or without a fraction: a whole one stays one, as it is written."""

    def __get_pydantic_core_schema__(
        self, source: type, handler: "GetCoreSchemaHandler"
    ) -> "CoreSchema":
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(FieldCheck(_is_number, "no number"))


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= _HIGHEST  # type: ignore[operator]


def is_plain_name(name: str) -> bool:
    """Whether `name` can be that of one file in a directory, and of nothing anywhere else."""
    return (
        name not in ("", ".", "..")
        and "/" not in name
        and "\0" not in name
        and _bytes_of(name) in range(_LONGEST_NAME + 1)
    )


def _bytes_of(name: str) -> int:
    """How long a name is for the system; -1 if it can have no file of that name."""
    try:
        return len(os.fsencode(name))
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return -1


#: On a tuple (JSON: a list) or an enumeration (JSON: a text).
FROM_JSON: Final = _FromJson()
_HIGHEST: Final = 10**15
#: Counts and sizes: at most what a file system can have.
Count = Annotated[int, Interval(ge=0, le=(1 << 63) - 1)]
#: Seconds, moments and rates.
Number = Annotated[float, _WholeOrNot()]
#: The name of one file.
PlainName = Annotated[str, FieldCheck(is_plain_name, "no plain name of a file")]
#: In lower-case hexadecimal digits.
Sha256 = Annotated[
    str, FieldCheck(lambda text: _SHA256.fullmatch(text) is not None, "no SHA-256 checksum")
]
