"""The parts of what a sidecar says of its copy, each validated by itself."""

from dataclasses import dataclass
from typing import Annotated

from shared.host.clock import parse_timestamp
from shared.host.document_fields import Count, FieldCheck, Sha256
from shared.host.documents import Document


def _is_time(text: str) -> bool:
    try:
        return bool(parse_timestamp(text))
    except ValueError:
        return False


Time = Annotated[str, FieldCheck(_is_time, "no time")]


@dataclass(frozen=True, slots=True)
class Verified(Document):
    """The last time that the copy was read and compared with its digests, at `time`.

    `result` is good, or says what is wrong.
    """

    time: str
    result: Annotated[str, FieldCheck(bool, "empty")] = "good"


@dataclass(frozen=True, slots=True)
class SideFile(Document):
    """A file beside the `.ova` that belongs to the copy: its bytes and their digest."""

    size: Count
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class Screenshot(Document):
    """The image file of what the guest showed in the rehearsal of the time `time`.

    It came from a guest: it is shown to people, and nothing is concluded from it. The copy is whole
    without it.
    """

    time: Time
    size: Count
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class Wire(Document):
    """How the bytes of the `.ova` came to the NAS.

    `sent`, or `copied` there from the copy before. `reason`: why none were copied.
    """

    sent: Count
    copied: Count
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Rehearsed(Document):
    """The last time that the copy was restored on trial, at `time` on the host `node`.

    `result` is good, or says what went wrong.

    `observed` says what was seen, in words; `booted` whether it was started at all.
    `imported_because` says why it was imported though it was started; empty: it ran from the copy,
    or was to be imported.
    """

    time: str
    node: str
    result: str
    observed: str
    booted: bool
    imported_because: str = ""
