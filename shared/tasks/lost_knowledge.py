"""What only a state database knew that is lost, in words: no copy says it, so people are told.

By the rows that can still be read of it.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from shared.state.records import VmRecord
from shared.state.rules import unfinished
from shared.state.states import State

Kind = Literal["power", "publication", "move", "failures", "waiting", "no copy"]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """One thing that the new database does not know of a VM."""

    vm: str
    node: str
    kind: Kind
    text: str

    def to_json(self) -> dict[str, Any]:
        """As commands show it."""
        return asdict(self)


def of_all(rows: Mapping[str, VmRecord], made: Collection[VmRecord]) -> list[Knowledge]:
    """What the rows of VMs, by UUID, say that their copies do not; sorted by VM.

    `made` are the records in the new database. A row of a damaged generation may name a UUID that
    was never one: its VM is known by its name, too.
    """
    uuids, keys = {record.uuid for record in made}, {record.key for record in made}
    found = [
        Knowledge(record.key, record.node, kind, text)
        for uuid, record in rows.items()
        for kind, text in _of(record, has_copy=uuid in uuids or record.key in keys)
    ]
    return sorted(found, key=lambda each: (each.vm, each.kind, each.text))


def _of(record: VmRecord, *, has_copy: bool) -> list[tuple[Kind, str]]:
    found: list[tuple[Kind, str]] = []
    if record.power is not None:
        what = unfinished.DONE_TO[record.power.method]
        host = record.power.node or record.node
        found.append(
            (
                "power",
                (
                    f"{what} on {host}, where it was {record.power.found}: that host has noted it, "
                    f"and undoes it by itself when it has accepted the new database. Look there "
                    f"(VBoxManage showvminfo {record.uuid})"
                ),
            )
        )
    if record.power_left is not None:
        found.append(("power", unfinished.may_remain(record, record.power_left)))
    if record.publishing is not None:
        text = f"the copy {record.publishing.stamp} was being put in place; it is made again"
        found.append(("publication", text))
    if record.moving is not None:
        text = f"{record.moving} had begun on {record.moving_since or 'an unknown day'}"
        found.append(
            ("move", f"{text}: give that command again; if it is refused, it says what to do")
        )
    if record.failures:
        text = f"{record.failures} backups in a row had failed: {record.last_error}"
        found.append(("failures", text))
    if record.waiting or record.queued is not None:
        found.append(("waiting", record.waiting or "it waited for a place on the NAS"))
    if not has_copy:
        archived = ", and was ARCHIVED: archive it again" if record.status == State.ARCHIVED else ""
        text = f"it has no copy on the NAS: its host finds it again as a new VM{archived}"
        found.append(("no copy", text))
    return found
