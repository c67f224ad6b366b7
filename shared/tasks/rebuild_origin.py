"""Which repository a database that is made anew is of, and above which numbers it begins."""

import uuid
from collections import Counter
from typing import Final

from shared.copies import archive_marker, claim_numbers
from shared.copies.survey import Survey
from shared.host.configuration import Configuration
from shared.nas.repository import known_repository
from shared.state.numbers import believable
from shared.state.store import exchange, version
from shared.state.store.salvage import Salvage, highest_generation
from shared.state.store.seen_history import SeenHistory

#: New numbers begin so far above all that were found: the last ones that were given out may stand
#: nowhere.
MARGIN: Final = 1000


def repository(configuration: Configuration, old: Salvage) -> tuple[str, str]:
    """The id that the repository had, and where that was read; empty: it cannot be told there.

    What this host and the archive know counts for more than what lies in `vmstate`, which may be of
    another NAS.
    """
    nas = configuration.nas
    known = known_repository(nas, configuration.host.state_directory)
    if known is not None:
        return known, "what this host knows"
    if marked := archive_marker.named_repository(nas):
        return marked, "the marker of the archive"
    return (old.repository, "the database that was lost") if old.repository else ("", "")


def of_copies(found: Survey) -> tuple[str, str]:
    """The id that most of the newest copies name; a new one if none does."""
    said = Counter(
        vm.newest_sidecar.repository
        for vm in found.vms.values()
        if version.is_repository(vm.newest_sidecar.repository)
    )
    if not said:
        return str(uuid.uuid4()), "nowhere: it is a new one"
    return max(sorted(said), key=lambda each: said[each]), "the copies"


def claims(configuration: Configuration, found: Survey, old: Salvage) -> int:
    """The number above which claims get theirs: above all that stand in names or in the old one."""
    nas = configuration.nas
    highest = claim_numbers.highest_claim(
        claim_numbers.directories_in((nas.mountpoint, nas.archive))
    )
    highest = max(highest, old.claims, *(vm.highest_claim for vm in found.vms.values()))
    return highest + MARGIN


def generation(configuration: Configuration, of: str, old: Salvage) -> int:
    """Above all that is found, also in what was set aside before, and that this host has seen."""
    nas, host = configuration.nas, configuration.host
    seen = SeenHistory(host.state_directory / f"seen-{of}.json").generation
    numbers = [
        old.generation,
        *map(highest_generation, exchange.databases_set_aside(nas.mountpoint)),
    ]
    return max(seen if believable(seen) else 0, *numbers) + MARGIN
