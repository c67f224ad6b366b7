"""Whether the NAS copies unchanged data by itself, measured anew and remembered for the workers."""

from collections.abc import Iterator

from coordinator.doctor.result import Check
from shared.host.clock import Clock
from shared.host.configuration import Configuration
from shared.nas import server_copy
from shared.nas.mount import NasStatus
from shared.nas.spelling import trial_directory


def examine(configuration: Configuration, status: NasStatus, clock: Clock) -> Iterator[Check]:
    """One line: whether unchanged data are sent with every copy, and why.

    Measured in a directory of its own, which goes again. Raises OSError if that cannot be made.
    """
    nas = configuration.nas
    with trial_directory(nas.mountpoint) as place:
        found = server_copy.measure(nas, status, place, configuration.host.state_directory, clock)
    reason = found.refusal(status.mount, nas.reflink)
    layout = ", and laid out so that blocks are stored once" if found.aligned(nas.reflink) else ""
    yield Check(
        "NAS: unchanged data",
        "ok",
        f"sent with every copy: {reason}" if reason else f"copied by the NAS, not sent{layout}",
    )
