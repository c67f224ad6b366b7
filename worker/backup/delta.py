"""Whether the copy before can lend its bytes to a new one, and where the index goes by which the one after it will find them.

The index is a file beside the copy that helps to make the next one and decides nothing: missing or
damaged, everything is sent. Where it could never help, none is written.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.copies.catalogue import Catalogue
from shared.copies.names import final_name
from shared.nas.mount import refuses_to_copy
from shared.site import Site
from worker.backup.left_out import Place

if TYPE_CHECKING:
    from shared.export.delta import DeltaPlan


@dataclass(frozen=True, slots=True)
class Delta:
    """`plan` is None where no index is of use.

    `reason` says why nothing is copied from the copy before, as far as that is known yet.
    """

    plan: "DeltaPlan | None"
    reason: str


def plan_delta(site: Site, place: Place, found: Catalogue, whole: str) -> Delta:
    """The plan for a copy at `place`, beside those that were `found` there.

    `whole`: why it must be sent whole, if it must.
    """
    nas, backup = site.configuration.nas, site.configuration.backup
    if reason := refuses_to_copy(site.nas.mount, reflink=nas.reflink):
        return Delta(None, reason)
    from shared.export.delta import DeltaPlan

    index = place.directory / place.partial("index")
    stamps = [
        copy.stamp
        for copy in reversed(found.good)
        if os.path.exists(place.directory / final_name(copy.stamp, "index"))
    ]
    if whole or not stamps:
        plan = DeltaPlan(index, whole_every=backup.whole_every, aligned=nas.reflink)
        return Delta(plan, whole or "there is no copy before it that has an index")
    previous, previous_index = (
        place.directory / final_name(stamps[0], suffix) for suffix in ("ova", "index")
    )
    return Delta(
        DeltaPlan(index, previous, previous_index, backup.whole_every, aligned=nas.reflink), ""
    )
