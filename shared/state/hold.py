"""Holds: a VM runs from a copy, which stays where it is until that is over.

A hold is neither a claim nor a lease. It stands twice, in the record of the copy's VM and in the
copy's sidecar, and each of the two keeps the copy. No silence and no crash ends it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

from shared.host.document_fields import FROM_JSON, FieldCheck, PlainName
from shared.host.documents import Document
from shared.host.errors import LockedError
from shared.host.printable import option, printable, quoted

_Text = Annotated[str, FieldCheck(bool, "empty")]
#: Bytes as JSON of all marks in one sidecar: those of a hundred VMs with the longest names.
MOST_MARKED_BYTES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Hold(Document):
    """That the VM `name` on the host `node` runs from the copy `stamp`, since `since`.

    `index` is the digest of what it was begun with (the copy's index, or what stands for it):
    whoever goes on with that VM does it from the same bytes. `uuid` is that VM's, if it has one
    yet. `ended` is when it was over, in a record alone: until its mark is gone from the sidecar the
    copy stays.
    """

    stamp: PlainName
    node: _Text
    name: _Text
    since: str
    index: str = ""
    uuid: str = ""
    ended: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holder(self) -> tuple[str, str]:
        """Whose it is: a host and the name of a VM there, of which there is one hold at most."""
        return self.node, self.name

    @property
    def title(self) -> str:
        """What commands call it: `HOST:NAME`."""
        return f"{self.node}:{self.name}"

    @property
    def words(self) -> str:
        """Who holds the copy, and since when."""
        name = printable(self.name)
        return f"held by {name} on {self.node}, which runs from it, since {self.since}"

    @property
    def ends(self) -> str:
        """What ends it, for hints."""
        if self.ended:
            return "it is over: the next database worker of any host takes its mark off the copy"
        boot = f"on {self.node}: vmbackup-admin boot"
        ways = [option(way, self.name) for way in ("--finish", "--discard")]
        return (
            f"it ends {boot} {ways[0]}, or {ways[1]}; if that host is gone for good: "
            f"`vmbackup-lock break {quoted(self.title)} --force`"
        )

    @property
    def loss(self) -> str:
        """What is lost with it."""
        return (
            f"what the guest of {printable(self.name)} on {self.node} has written since "
            f"{self.since} is worthless then"
        )


def _fit(holds: tuple[Hold, ...]) -> bool:
    return len(json.dumps(holds, default=Hold.to_json)) <= MOST_MARKED_BYTES


#: What a sidecar may say. It goes into the record, and with that into each generation.
Marks = Annotated[tuple[Hold, ...], FROM_JSON, FieldCheck(_fit, "longer than what is written")]


def merged(known: Iterable[Hold], others: Iterable[Hold]) -> tuple[Hold, ...]:
    """`known`, and those of the others whose holder and copy are not among them."""
    found = {(hold.holder, hold.stamp): hold for hold in others}
    found |= {(hold.holder, hold.stamp): hold for hold in known}
    return tuple(found[key] for key in sorted(found))


def marks(holds: Iterable[Hold], stamp: str) -> tuple[Hold, ...]:
    """What the sidecar of a copy has to say of these: not what is over."""
    return merged((hold for hold in holds if hold.stamp == stamp and not hold.ended), ())


def require_unheld(vm: str, holds: Iterable[Hold], what: str, stamp: str = "") -> None:
    """Raises `LockedError` if that copy of a VM is held, or any of its copies.

    `what` says what cannot be done.
    """
    for hold in holds:
        if stamp in ("", hold.stamp):
            raise LockedError(
                f"{printable(vm)}: {what}: its copy {hold.stamp} is {hold.words}", hint=hold.ends
            )


def over(hold: Hold, when: str) -> Hold:
    """The same hold, which is over since `when`, or was before."""
    return replace(hold, ended=hold.ended or when)
