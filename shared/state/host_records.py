"""Records of hosts in the state database: a host's name and who owns it, and its processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shared.host.document_fields import Count, Number
from shared.host.documents import Document
from shared.state.records import EventRecord, Told


@dataclass(frozen=True, slots=True)
class NodeRecord(Document):
    """A host name, and the machine and user that own it.

    A second machine of that name is refused, and by `vmfind` a second user.
    """

    name: str
    machine: str
    hostname: str = ""
    #: The number of the user whose VMs these are. Empty: nobody has said so yet, the first whose
    #: `vmfind` comes does.
    user: str = ""
    #: What is told of it, by kind.
    events: Mapping[str, EventRecord] = field(default_factory=dict)
    #: Of one host: which reports were sent, by the names of targets.
    reports: Mapping[str, Told] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionRecord(Document):
    """One process that committed something.

    `sequence` is its last committed transaction and `generation` where that was: reading it back is
    how a process learns whether a commit took place. A live session may hold claims; an ended or
    expired one stays as a tombstone for a while.
    """

    id: str
    sequence: Count
    generation: Count
    state: Literal["live", "ended", "expired"]
    node: str
    worker: str = ""
    since: str = ""
    hostname: str = ""
    machine: str = ""
    boot: str = ""
    space: str = ""
    pid: Count = 0
    started: Number = 0
    #: When its process started, by the kernel's count. Older programs do not know it, and compare
    #: `started`.
    born: str = ""
    #: The version of its program. Empty: 0.1, which knows the format 1.1 alone.
    program: str = ""
    #: The copy that it reads, `UUID/STAMP`: it stays where it is while the session lives. Empty:
    #: none. Older programs do not know it, and may remove that copy, whose reader is told.
    reads: str = ""
    #: Why it was declared dead, where and when: its worker says so. Older programs do not note it.
    over: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
