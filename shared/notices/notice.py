"""One message to people, of parts that may hold anything.

Names of VMs go to mail headers, chats and web pages here: no line of theirs begins a header, no
character of theirs calls everybody in a room, makes a link or a tag, or turns the text around.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from shared.host.printable import printable

Kind = Literal["failure", "warning", "success", "info"]

_TITLE: Final = 120
_LINE: Final = 400
_LINES: Final = 50
#: Characters by which chats and mail programs know mentions, tags and links, and what is shown for
#: them.
_TAMED: Final = str.maketrans(
    {"@": "\N{FULLWIDTH COMMERCIAL AT}", "<": "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}"}
    | {">": "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}", "[": "(", "]": ")"}
)


@dataclass(frozen=True, slots=True)
class Notice:
    """What is sent: a title of one line, and a body of some. `kind`: how it is coloured."""

    title: str
    body: str
    kind: Kind = "info"

    @classmethod
    def of(cls, title: str, lines: Sequence[str], kind: Kind = "info") -> "Notice":
        """A message of harmless text, of bounded length."""
        body = [harmless(line, _LINE) for line in lines[:_LINES]]
        if len(lines) > _LINES:
            body.append(f"and {len(lines) - _LINES} lines more: vmbackup-admin notify")
        return cls(harmless(title, _TITLE), "\n".join(body), kind)


def harmless(text: str, limit: int) -> str:
    """Text as one line of at most `limit` characters that does nothing wherever it is shown."""
    line = printable(text).translate(_TAMED)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
