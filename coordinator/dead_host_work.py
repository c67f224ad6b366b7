"""What a host that is gone had begun is brought to an end, as far as that goes without the host.

Publications and moves are finished, as the next database worker of any host would. What its backups
did to its VMs cannot be undone from here: no VM is touched, the notes are put aside, and what may
still be off or there is told. Each step may be repeated after a crash.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from coordinator import text
from shared.host.clock import timestamp
from shared.host.errors import VmBackupError
from shared.site import Site
from shared.state.contents import Contents
from shared.state.records import Power, VmRecord
from shared.state.rules import hosts, unfinished
from shared.state.sessions.host_look import TOLERANCE_SECONDS, read_looks
from shared.tasks.judgement import is_silent, moment


@dataclass
class Settled:
    """What was finished, by VM, and what could not be, with the reason."""

    finished: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def word(record: VmRecord) -> str:
    """What of a VM any host can finish, in a word; empty if nothing."""
    return "publication" if record.publishing else str(record.moving or "")


def concerned(contents: Contents, node: str, freed: Collection[str]) -> list[VmRecord]:
    """The VMs of a host, and those that its dead sessions held."""
    return sorted(
        (vm for vm in contents.vms.values() if vm.node == node or vm.key in freed),
        key=lambda vm: vm.key,
    )


def finish(site: Site, node: str, freed: Collection[str]) -> Settled:
    """Finishes the publications and moves that nobody works on."""
    settled = Settled()
    for record in concerned(site.database.head().contents, node, freed):
        what = word(record)
        if not what or record.claim is not None:
            continue
        try:
            done = _finish(site, record)
        except VmBackupError as error:
            after = site.database.head().contents.vms.get(record.key)
            if after is not None and after.claim is None and word(after) == what:
                settled.failed[record.key] = f"the {what} of {record.key}: {error.message}"
            continue  # else somebody else has finished it, or is doing so
        if done:
            settled.finished[record.key] = what
        else:
            why = site.database.head().contents.vms[record.key].last_error
            settled.failed[record.key] = f"{record.key}: {why}"
    return settled


def _finish(site: Site, record: VmRecord) -> bool:
    from shared.tasks import archiving, publication

    if record.publishing is not None:
        return publication.resume(site, record.key, "recover")

    def show(done: int, total: int) -> None:
        text.progress(f"{record.key}: {text.size(done)} of {text.size(total)}")

    try:
        archiving.resume(site, record.key, show)
    finally:
        text.progress("")
    return True


def touched(contents: Contents, node: str, *, here: bool = False) -> list[str]:
    """The VMs of a host to which a backup that died did something.

    `here`: it is this host, whose own worker undoes that, unless the VM is not listed any more.
    """
    return [
        vm.key
        for vm in contents.vms.values()
        if vm.node == node
        and vm.power is not None
        and vm.claim is None
        and (vm.missing_since or not here)
    ]


def without_power(contents: Contents, node: str, *, here: bool) -> Contents:
    """The contents after it was noted that nobody undoes what backups did to a host's VMs."""
    return unfinished.leave_power(contents, touched(contents, node, here=here))


def leave_power(site: Site, node: str) -> None:
    """Commits `without_power`, if there is anything."""
    here = node == site.node
    if touched(site.database.head().contents, node, here=here):
        site.database.commit_once(
            lambda contents: without_power(contents, node, here=here),
            f"recover {node}: nobody brings its VMs back",
            "recover",
        )


def give_up(site: Site, node: str) -> None:
    """Commits that the VMs of a host are missing there: a host that lists one takes it over."""
    when = timestamp(site.clock.now())
    site.database.commit_once(
        lambda contents: hosts.give_up(contents, node, when), f"recover {node}", "recover"
    )


def looked_seconds(site: Site, contents: Contents, node: str) -> float | None:
    """How long ago a host looked at its VMs, if it may still be there; None: it has stopped.

    Between two ticks a host that works has no session to be watched: only its looks tell. One that
    has never noted a look counts as gone, and nobody has to wait for this host. Raises `NasError`.
    """
    if node == site.node:
        return None
    with site.database.nas_errors():
        looks = read_looks(site.database.root / "node", contents.nodes)
    look = looks.get(node)
    if look is None:
        return None
    now = moment(site.clock.now().timestamp(), looks.get(site.node))
    since = now.nas - look.looked
    return None if since < -TOLERANCE_SECONDS or is_silent(look, now) else max(0.0, since)


def left(contents: Contents, node: str) -> list[dict[str, Any]]:
    """What may still be off, saved or there on a host, for `--json` and, as `text`, for people."""
    return [
        _left(record, record.power_left)
        for record in sorted(contents.vms.values(), key=lambda vm: vm.key)
        if record.power_left is not None and (record.power_left.node or record.node) == node
    ]


def accept_left(site: Site) -> None:
    """Commits that VMs of this host which a backup stopped may stay off: a person was told."""

    def change(contents: Contents) -> Contents:
        for record in contents.vms.values():
            left = record.power_left
            if left is not None and record.node == site.node and not record.missing_since:
                contents = unfinished.without_power_left(contents, record.key, left)
        return contents

    contents = site.database.head().contents
    if change(contents) != contents:
        site.database.commit_once(change, "its operator was told what may be off", "recover")


def _left(record: VmRecord, power: Power) -> dict[str, Any]:
    cloned = power.method in {"live", "pause"}
    return {
        "vm": record.key,
        "uuid": record.uuid,
        "node": power.node or record.node,
        "method": power.method,
        "found": power.found,
        "since": power.since or None,
        "snapshot": power.tag if power.method == "live" else None,
        "clone": (power.clone or power.tag) if cloned else None,
        "folder": power.folder or None,
        "text": unfinished.may_remain(record, power),
    }


def remaining(contents: Contents, node: str, freed: Collection[str]) -> dict[str, str]:
    """What is still unfinished of the VMs of a host, in words, by VM."""
    words = {"power": "power state", "leftovers": "partial files"}
    found = {
        record.key: ", ".join(
            words.get(each.kind) or word(record) for each in unfinished.of(record)
        )
        for record in concerned(contents, node, freed)
    }
    return {key: what for key, what in found.items() if what}
