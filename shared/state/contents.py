"""All that transactions change: the records of hosts, sessions and VMs, and rows that fit none."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from shared.state.formats import NEWEST
from shared.state.host_records import NodeRecord, SessionRecord
from shared.state.records import VmRecord


@dataclass(frozen=True, slots=True)
class UnusableRow:
    """A row of the database that does not fit what this program knows.

    It is carried on byte for byte, and nothing is done with what it is about.
    """

    section: Literal["nodes", "sessions", "vms"]
    #: Its name, as far as that can be read, and the line as it stands in the generation.
    key: str
    line: str
    #: What is wrong with it.
    why: str
    #: Of a VM, as far as they can be read: they are not given to another one.
    uuid: str = ""
    directory: str = ""

    @property
    def message(self) -> str:
        """What is wrong with it, as a sentence for people."""
        what = {"nodes": "host", "sessions": "session", "vms": "VM"}[self.section]
        return (
            f"the record of the {what} {self.key!r} in the state database cannot be used: "
            f"{self.why}. It is kept as it is, and no path is made of it"
        )


@dataclass(frozen=True, slots=True)
class Contents:
    """What transactions change. `format` is that in which they are written."""

    claims_granted: int = 0
    nodes: Mapping[str, NodeRecord] = field(default_factory=dict)
    sessions: Mapping[str, SessionRecord] = field(default_factory=dict)
    vms: Mapping[str, VmRecord] = field(default_factory=dict)
    format: str = NEWEST
    unusable: tuple[UnusableRow, ...] = ()

    def with_vm(self, *records: VmRecord) -> "Contents":
        """With `records` added or replaced. Many at once: each call copies the table of all VMs."""
        return replace(self, vms={**self.vms, **{record.key: record for record in records}})

    def without_vm(self, key: str) -> "Contents":
        """Without the record of that key."""
        return replace(self, vms={known: vm for known, vm in self.vms.items() if known != key})

    def with_session(self, record: SessionRecord) -> "Contents":
        """With `record` added or replaced."""
        return replace(self, sessions={**self.sessions, record.id: record})

    def with_node(self, record: NodeRecord) -> "Contents":
        """With `record` added or replaced."""
        return replace(self, nodes={**self.nodes, record.name: record})

    def unusable_row(self, section: str, key: str) -> UnusableRow | None:
        """The row of this name that does not fit, if there is one."""
        return next(
            (row for row in self.unusable if (row.section, row.key) == (section, key)), None
        )

    def without_unusable(self, section: str, key: str) -> "Contents":
        """Without the rows of this name that do not fit."""
        kept = tuple(row for row in self.unusable if (row.section, row.key) != (section, key))
        return replace(self, unusable=kept)
