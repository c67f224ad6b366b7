"""The text in which LVM describes a volume group, as nested dictionaries.

A guest wrote it: its length, its depth and its numbers are bounded, and it is either understood
from beginning to end or refused.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

#: LVM keeps half a megabyte at most where nobody asked it for more.
MOST_BYTES: Final = 1 << 20
_DEEPEST: Final = 8
_LONGEST_NUMBER: Final = 19
_TOKEN: Final = re.compile(
    rb"""\s+ | \#[^\n]*
    | "(?P<text>[^"\\]*(?:\\.[^"\\]*)*)"
    | (?P<word>[A-Za-z0-9_.+/-]+)
    | (?P<mark>[{}\[\],=])""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER: Final = re.compile(rb"-?[0-9]+")

Section = dict[str, Any]
#: Of which kind a token is, and what it says.
_Token = tuple[str, bytes]


class LvmTextError(ValueError):
    """It is no description of a volume group."""


def parse(text: bytes) -> Section:
    """A section is a dictionary, a list a tuple, and all else an integer or text.

    Raises `LvmTextError`.
    """
    if len(text) > MOST_BYTES:
        raise LvmTextError(f"it is impossibly long ({len(text)} bytes)")
    tokens = _tokens(text.rstrip(b"\0"))
    open_sections: list[Section] = [{}]
    for kind, said in tokens:
        if (kind, said) == ("mark", b"}") and len(open_sections) > 1:
            open_sections.pop()
            continue
        name = _text(said)
        if kind != "word" or name in open_sections[-1]:
            raise LvmTextError(f"{name!r} is not expected there")
        value = _value(tokens)
        open_sections[-1][name] = value
        if isinstance(value, dict):
            open_sections.append(value)
        if len(open_sections) > _DEEPEST:
            raise LvmTextError("it is too deep")
    if len(open_sections) > 1:
        raise LvmTextError("it is cut off")
    return open_sections[0]


def _tokens(text: bytes) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise LvmTextError(f"what stands at byte {at} is not understood")
        at = found.end()
        if found.lastgroup:
            yield found.lastgroup, found[found.lastgroup]


def _value(tokens: Iterator[_Token]) -> Section | tuple[int | str, ...] | int | str:
    """What a name stands for; an empty section if it begins one."""
    mark = next(tokens, ("", b""))
    if mark == ("mark", b"{"):
        return {}
    if mark != ("mark", b"="):
        raise LvmTextError("a value is missing")
    first = next(tokens, ("", b""))
    if first != ("mark", b"["):
        return _single(first)
    found = list[int | str]()
    for token in tokens:
        if token == ("mark", b"]"):
            return tuple(found)
        if token != ("mark", b","):
            found.append(_single(token))
    raise LvmTextError("a list is cut off")


def _single(token: _Token) -> int | str:
    kind, said = token
    if kind == "word" and _NUMBER.fullmatch(said):
        if len(said) > _LONGEST_NUMBER:
            raise LvmTextError("a number is impossibly long")
        return int(said)
    if kind not in ("word", "text"):
        raise LvmTextError("a value is missing")
    return _text(said)


def _text(said: bytes) -> str:
    return said.decode("utf-8", "surrogateescape")
