"""Where the chain of generations begins since older ones were removed for their age.

An anchor is a small file in the history, written before anything goes. The one with the highest
number counts.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from shared.host.document_fields import Count
from shared.host.documents import LIMIT, Document, load
from shared.nas.reading import read_file
from shared.state.store.layout import names_in

_NAME: Final = re.compile(r"anchor-([0-9]{20})")


@dataclass(frozen=True, slots=True)
class Anchor(Document):
    """The last generation that was removed: its number and checksum, when it was, and by whom.

    `checksum` is empty if the generation could not be read any more.
    """

    number: Count
    checksum: str
    when: str
    node: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    def render(self) -> bytes:
        """The bytes of its file."""
        return json.dumps(self.to_json()).encode() + b"\n"


def anchor_name(number: int) -> str:
    """What the file of an anchor is called."""
    return f"anchor-{number:020d}"


def anchor_numbers(names: Iterable[str]) -> list[int]:
    """The numbers of those of `names` that are an anchor's, the highest first."""
    found = (int(match[1]) for name in names if (match := _NAME.fullmatch(name)))
    return sorted(found, reverse=True)


def newest_anchor(root: Path) -> Anchor | None:
    """The anchor that counts: the highest that can be read; None if there is none."""
    history = root / "history"
    for number in anchor_numbers(names_in(history)):
        with contextlib.suppress(OSError, ValueError):
            found = Anchor.from_json(load(read_file(history / anchor_name(number), LIMIT), LIMIT))
            if found.number == number:
                return found
    return None
