"""Whether a new copy may take bytes from the one before it on the NAS instead of sending them.

Which bytes those are stands in an index, a file with each copy, which decides nothing: missing or
damaged, everything is sent. Where it could never help, none is written.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.copies.catalogue import Catalogue
from shared.copies.names import final_name
from shared.nas.server_copy import Answer
from shared.state import formats
from shared.tasks import vm_copies
from worker.backup.work import Target, Work

if TYPE_CHECKING:
    from shared.export.delta import DeltaPlan
    from shared.export.raw_digests import RawDigests


@dataclass(frozen=True, slots=True)
class DeltaChoice:
    """`plan` is None where no index is of use.

    `reason` says why nothing is copied from the copy before, as far as that is known yet.
    `sources` are the copy from which bytes may be taken over and those from which it did so.
    `oldest_read`: when the oldest of these bytes was last read. `digests`: by them disks that
    cannot be cloned are compared, if their bytes may be taken over unread.
    """

    plan: "DeltaPlan | None"
    reason: str
    sources: tuple[str, ...] = ()
    oldest_read: str = ""
    digests: "RawDigests | None" = None


def plan_delta(
    work: Work, target: Target, there: Catalogue, server: Answer, no_delta: str
) -> DeltaChoice:
    """The plan for a copy at `target`; `there`: the copies that the VM has.

    `server`: what the NAS does by itself. `no_delta`: why it must be sent whole, if it must.
    """
    site = work.site
    reflink, backup = site.configuration.nas.reflink, site.configuration.backup
    if reason := server.refusal(site.nas.mount, reflink):
        return DeltaChoice(None, reason)
    from shared.export.delta import DeltaPlan

    index, aligned = target.partial_path("index"), server.aligned(reflink)
    no_delta, digests = no_delta or _distrust(there), _digests_for(work, target)
    usable = [
        copy
        for copy in reversed(there.good)
        if os.path.exists(target.directory / final_name(copy.stamp, "index"))
    ]
    if no_delta or not usable:
        plan = DeltaPlan(index, whole_every=backup.whole_every, aligned=aligned)
        reason = no_delta or "there is no copy before it that has an index"
        return DeltaChoice(plan, reason, digests=digests)
    previous, previous_index = (
        target.directory / final_name(usable[0].stamp, suffix) for suffix in ("ova", "index")
    )
    side = usable[0].sidecar
    unread = side.index.sha256 if side and side.index and may_be_unread(work, there) else ""
    plan = DeltaPlan(index, previous, previous_index, backup.whole_every, aligned, unread)
    if side is None:
        return DeltaChoice(plan, "", digests=digests)
    sources = (side.stamp, *side.taken_from)
    return DeltaChoice(plan, "", sources, vm_copies.last_read(side), digests)


def may_be_unread(work: Work, there: Catalogue) -> bool:
    """Whether a copy of the VM may take over what nobody has read: only beside one that was."""
    return _may_once(work) and any(copy.read_in_full for copy in there.good)


def _digests_for(work: Work, target: Target) -> "RawDigests | None":
    from shared.export.raw_digests import RawDigests
    from shared.frozen.store import RoomLimit

    site = work.site
    state_directory, repository = (
        site.configuration.host.state_directory,
        site.database.version.repository,
    )
    room = RoomLimit(site.configuration.backup.clone_free)
    if not _may_once(work) or room.reached_in([state_directory]):
        return None
    return RawDigests(state_directory, repository, work.record.uuid, target.claim)


def _may_once(work: Work) -> bool:
    """Whether copies of the VM may ever take over what nobody has read.

    Only where such copies are read in full later. Programs of version 0.1, which may work beside
    this one, would call them damaged.
    """
    return (
        work.policy.changed == "auto"
        and work.policy.verify_days > 0
        and not formats.is_older(work.site.database.head().contents.format)
    )


def _distrust(there: Catalogue) -> str:
    """Why nothing is taken over from any copy: some may have what a damaged one had."""
    suspects = [copy.stamp for copy in there.good if copy.suspect]
    if not suspects:
        return ""
    return f"{suspects[-1]} took blocks over from a copy that is damaged, and was not read since"
