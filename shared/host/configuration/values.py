"""Kinds of values that settings have, their bounds, and what all sections share."""

import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

_UNITS: Final = {
    "": 1,
    "B": 1,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


def parse_size(value: object) -> object:
    """Bytes from `"10 GiB"`, `"500MB"` or a number; the model refuses anything else."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]*)\s*", value)
    if not match or match[2].upper() not in _UNITS:
        raise ValueError('a size looks like 500, "10 GiB" or "2 TB"')
    return int(float(match[1]) * _UNITS[match[2].upper()])


#: At most what a file system can have. Numbers beyond that, and beyond the bounds below, are slips;
#: some meet limits of the system.
Size = Annotated[
    int, BeforeValidator(parse_size, json_schema_input_type=int | str), Field(ge=0, le=2**63 - 1)
]
#: Where a secret stands, instead of the secret itself.
REFERENCE: Final = re.compile(
    r"env:[A-Za-z_][A-Za-z0-9_]*|file:[^\0\n]+|credential:[A-Za-z0-9._-]+"
)
#: The name of a host, or of a target.
PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
HIDDEN: Final = "(not shown)"
_HOURS: Final = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")


def shown(secret: SecretStr) -> str:
    """A secret as it may be shown: where it stands, or that it is not shown."""
    value = secret.get_secret_value()
    return value if not value or REFERENCE.fullmatch(value) else HIDDEN


def _known(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    if value.startswith(("env:", "file:", "credential:")) and not REFERENCE.fullmatch(value):
        raise ValueError(
            "must look like env:NAME, file:/path or credential:NAME, or be the URL itself"
        )
    return secret


#: A URL with a secret in it, or where it stands; in no message, log, or traceback.
Secret = Annotated[SecretStr, AfterValidator(_known), PlainSerializer(shown)]


def _hours(value: str) -> str:
    if value and not _HOURS.fullmatch(value):
        raise ValueError("must look like 22:00-06:00; midnight is 00:00")
    return value


#: Hours of the day, in local time; empty: always, or never.
Hours = Annotated[str, AfterValidator(_hours)]
_ABSOLUTE: Final = "write an absolute path"
HOUR: Final = 3600
DAY: Final = 24 * HOUR
YEAR_DAYS: Final = 366
#: Bytes in a second: with less nothing would be worth beginning; a figure without its unit.
LEAST_RATE: Final = 100_000


def user_path(value: Path) -> Path:
    """With `~` as the home directory.

    Raises ValueError if there is none: no HOME, and no entry for this user in the list of users.
    """
    try:
        return value.expanduser()
    except RuntimeError:
        raise ValueError(
            f"{value} cannot be found: this user has no home directory. Set HOME, or write an "
            f"absolute path"
        ) from None


def or_nothing(value: object) -> object:
    """A path, or nothing. Raises ValueError for ".", which Python takes for nothing."""
    if isinstance(value, str) and value.strip() and Path(value.strip()) == Path():
        raise ValueError(f"{value.strip()} is another directory for each program: {_ABSOLUTE}")
    return value


def absolute_or_nothing(value: Path) -> Path:
    """With `~` as the home directory. Raises ValueError if it depends on where a program starts."""
    path = user_path(value)
    if path != Path() and not path.is_absolute():
        raise ValueError(f"{value} is another directory for each program: {_ABSOLUTE}")
    return without_null(path)


def without_null(value: Path) -> Path:
    """The path as it is. Raises ValueError if it has a NUL character, which no system takes."""
    if "\0" in str(value):
        raise ValueError("must not have a NUL character in it")
    return value


def _command(words: list[str]) -> list[str]:
    if any("\0" in word for word in words):
        raise ValueError("must not have a NUL character in it")
    return words


#: A program and its arguments, or nothing. Never with a NUL character: no system takes it.
Command = Annotated[list[str], AfterValidator(_command)]


class Section(BaseModel):
    """What all sections share: unknown keys are refused, and so are infinite numbers."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        str_strip_whitespace=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """Python takes true for 1, and whoever writes it does not."""
        field = cls.model_fields.get(info.field_name or "")
        if isinstance(value, bool) and field is not None and field.annotation in (int, float):
            raise PydanticCustomError("int_type", "must be a number")
        return value


def is_size(field: FieldInfo) -> bool:
    """Whether a setting is a size in bytes, which may be written with a unit."""
    return any(getattr(note, "func", None) is parse_size for note in field.metadata)
