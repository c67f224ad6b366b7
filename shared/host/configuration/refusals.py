"""Why settings are refused, in our own words: pydantic's are for programmers."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from shared.host.configuration.model import Configuration
from shared.host.configuration.policy import PolicyTable
from shared.host.configuration.telling import NotifyTarget
from shared.host.configuration.values import is_size

#: By the beginnings of pydantic's types of errors.
_WORDS: Final[Mapping[str, str]] = {
    "extra_forbidden": "is not a setting",
    "bool_": "must be true or false",
    "string_too_short": "must not be empty",
    "string_": "must be a text in quotes",
    "path_": "must be a path in quotes",
    "too_short": "must not be empty",
    "list_": "must be a list of texts in quotes",
    "dict_": "must be a table",
    "model_": "must be a table",
    "missing": "is not set",
}
#: Sections of which there is one for each name.
_TABLES: Final[Mapping[str, type[BaseModel]]] = {"policy": PolicyTable, "notify": NotifyTarget}
_NUMBERS: Final = ("int_", "float_", "finite_number", "greater_than", "less_than")


def refusals(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Each setting that is refused, by its key, and why."""
    for problem in error.errors(include_url=False):
        place = problem["loc"]
        yield ".".join(str(part) for part in place) or "(file)", _reason(problem, _field(place))


def _reason(problem: Mapping[str, Any], field: FieldInfo | None) -> str:
    kind = str(problem["type"])
    if kind == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    if kind == "literal_error":
        return f"must be one of {problem['ctx']['expected']}{_meant(problem)}"
    if field is not None and kind.startswith(_NUMBERS):
        return f"must be {_number(field)}"
    return next(
        (words for start, words in _WORDS.items() if kind.startswith(start)),
        "has a value that does not fit",
    )


def _meant(problem: Mapping[str, Any]) -> str:
    """Which of the values is meant, if only the case of letters or blanks differ from one."""
    wrong = str(problem["input"]).strip().casefold()
    values = re.findall(r"'([^']*)'", str(problem["ctx"]["expected"]))
    return "".join(f"; '{value}' is meant" for value in values if value.casefold() == wrong)


def _field(place: tuple[int | str, ...]) -> FieldInfo | None:
    """The setting at a place like `("nas", "reserve")` or `("policy", "web*", "keep_last")`."""
    if len(place) < 2:
        return None
    if place[0] in _TABLES:
        fields = _TABLES[str(place[0])].model_fields
        return fields.get(str(place[2])) if len(place) > 2 else None
    section = Configuration.model_fields.get(str(place[0]))
    model = section.annotation if section else None
    if not isinstance(model, type) or not issubclass(model, BaseModel):
        return None
    return model.model_fields.get(str(place[1]))


def _number(field: FieldInfo) -> str:
    """What a number may be, with its bounds."""
    above, least, most = (
        next((getattr(note, name) for note in field.metadata if hasattr(note, name)), None)
        for name in ("gt", "ge", "le")
    )
    if is_size(field):
        return f'a size of {least} to {most} bytes, like 500, "10 GiB" or "2 TB"'
    kind = "a whole number" if field.annotation is int else "a number"
    if least is not None and most is not None:
        return f"{kind} from {least:g} to {most:g}"
    return f"{kind} above {above:g}, at most {most:g}"
