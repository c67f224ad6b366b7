"""What is said of holds: that a VM runs from a copy, which stays until that is over."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from coordinator import text
from shared.copies.catalogue import Copy
from shared.host.printable import printable
from shared.output import pasteable
from shared.state.hold import Hold, merged
from shared.state.records import VmRecord
from shared.state.rules.holds import Held
from shared.tasks import boot_remedies
from shared.tasks.hold_judgement import AllStuck


def document(hold: Hold) -> dict[str, Any]:
    """One hold as commands show it with `--json`."""
    return {
        "name": hold.title,
        "stamp": hold.stamp,
        "host": hold.node,
        "guest": hold.name,
        "guest_uuid": hold.uuid or None,
        "since": hold.since,
        "ended": hold.ended or None,
        "ends": pasteable(hold.ends),
    }


def documents(found: Iterable[Held], stuck: AllStuck) -> list[dict[str, Any]]:
    """Holds, each with the VM whose copy it is of, and why what runs from it does not get on."""
    rows = []
    for each in found:
        why = None if each.hold.ended else stuck.get(each.hold.holder)
        problem = pasteable(boot_remedies.words(why)) if why else None
        rows.append({**document(each.hold), "vm": each.vm, "problem": problem})
    return rows


def line(row: Mapping[str, Any], now: datetime) -> str:
    """One hold of `documents` for people."""
    age = text.duration(text.seconds_since(row["since"], now))
    problem = f", and {row['problem']}" if row["problem"] else ""
    return f"{row['name']}: {row['stamp']} of {row['vm']}, for {age}{problem}: {row['ends']}"


def of_copy(copy: Copy, known: Iterable[Hold]) -> list[dict[str, Any]]:
    """The holds of one copy, by its sidecar and by what the record knows, and which tells it."""
    recorded = {hold.holder: hold for hold in known if hold.stamp == copy.stamp}
    marked = {hold.holder for hold in copy.holds}
    return [
        {
            **document(hold),
            "recorded": hold.holder in recorded,
            "marked": hold.holder in marked,
            "words": hold.words,
        }
        for hold in merged(recorded.values(), copy.holds)
    ]


def lines_of_copy(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What `of_copy` found, for people."""
    for row in rows:
        alone = ""
        if not row["recorded"]:
            alone = " (the database does not know of it)"
        elif not (row["marked"] or row["ended"]):
            alone = " (its .json does not say so yet: the next database worker sees to that)"
        yield f"{row['words']}{alone}; {row['ends']}"


def gone(record: VmRecord, stamps: Iterable[str]) -> Iterator[str]:
    """Which held copies of a VM are none of those that are there."""
    there = set(stamps)
    for hold in record.holds:
        if hold.stamp not in there and not hold.ended:
            yield (
                f"the copy {hold.stamp} of {printable(record.key)} is not there, and is "
                f"{hold.words}; {hold.ends}"
            )
