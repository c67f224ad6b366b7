"""What this host itself tells of the NAS and of the database, and remembers in a note of its own.

Each host tells it by itself, because the database, in which hosts agree who tells, is what is wrong
or may be. The rules are the same: a note holds what a database would.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from shared.host.clock import Clock, timestamp
from shared.host.documents import read
from shared.host.errors import NasError, VmBackupError
from shared.host.notes import Note
from shared.state.contents import Contents
from shared.state.host_records import NodeRecord
from shared.state.rules.events import EventKey, Seen
from shared.state.store.protocol import Change
from shared.tasks.event_finding import View
from shared.tasks.judgement import Level, Verdict

#: It is repeated once a day, whatever a target says: every host tells it.
REPEAT_SECONDS: Final = 86400.0
NAS, DATABASE = "NAS", "database"


class OwnEvents:
    """The events in this host's note, in the place of a database."""

    #: Whoever tells from a note: this host has one teller at a time.
    id = "this host"

    def __init__(self, path: Path) -> None:
        self._note = Note(path, "what was told of the NAS and the database")

    def contents(self) -> Contents:
        """What is noted. Raises `ConfigurationError`."""
        noted = self._note.read()
        nodes: dict[str, NodeRecord] = {}
        for name in (NAS, DATABASE):
            try:
                events = read(dict[str, object], noted.get(name, {}))
                record = NodeRecord.from_json({"name": name, "machine": "", "events": events})
            except ValueError:  # nonsense is no note
                record = NodeRecord(name, "")
            nodes[name] = record
        return Contents(nodes=nodes)

    @contextlib.contextmanager
    def claiming(self) -> Iterator["OwnEvents"]:
        """Within, it may be told."""
        yield self

    def commit(self, change: Change, reason: str) -> Contents:  # noqa: ARG002 - as a database has it
        """Notes what `change` makes of it, unless that is noted already."""
        before = self.contents()
        after = change(before)
        if after != before:
            document = {
                name: node.to_json().get("events", {}) for name, node in after.nodes.items()
            }
            self._note.write(document)
        return after


def trouble(error: VmBackupError) -> tuple[EventKey, Verdict]:
    """What an error says that kept this host from working with the NAS or the database."""
    nas = isinstance(error, NasError)
    subject, kind = (NAS, "away") if nas else (DATABASE, "unusable")
    verdict = Verdict(subject, Level.CRITICAL, kind, error.message, remedy=error.hint)
    return EventKey("nodes", subject, kind), verdict


def of_nas(room: Verdict | None, contents: Contents) -> Mapping[EventKey, Verdict]:
    """What is wrong with a NAS and a database that can be worked with."""
    found: dict[EventKey, Verdict] = {}
    if room is not None and room.level != Level.OK:
        found[EventKey("nodes", NAS, room.kind)] = room
    if contents.unusable:
        reason = "; ".join(row.message for row in contents.unusable[:3])
        remedy = "vmbackup-admin statedb check"
        verdict = Verdict(DATABASE, Level.CRITICAL, "records", reason, remedy=remedy)
        found[EventKey("nodes", DATABASE, "records")] = verdict
    return found


def own_view(node: str, clock: Clock, found: Mapping[EventKey, Verdict], *, looked: bool) -> View:
    """What this host sees. Not `looked`: an error kept it from seeing more than that."""
    stands = {key: verdict.level.name.lower() for key, verdict in found.items()}

    def unsure(_key: EventKey) -> bool:
        return not looked

    seen = Seen(node, timestamp(clock.now()), stands, unsure, absent={node})
    return View(seen, dict(found))
