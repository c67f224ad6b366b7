"""What reading copies again has found, for programs and in words."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from shared.host.errors import ExitCode

if TYPE_CHECKING:
    from shared.site import Site
    from shared.state.records import VmRecord
    from shared.tasks.verification import Examined

#: What is said if copies are damaged.
WAY_OUT: Final = (
    "A damaged copy does not count, and stays. If the network has damaged what was read, it is "
    "good when it is verified once more. What stays damaged is removed by "
    "`vmbackup-admin remove VM STAMP`, best when a newer copy is good."
)


@dataclass
class Findings:
    """What was found.

    `skipped` are VMs that others work on, `unread` those with copies that could not be read, each
    with the reason.
    """

    examined: "list[Examined]" = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> ExitCode:
        """The exit code that says this."""
        bad = self.unread or any(copy.problem for copy in self.examined)
        return ExitCode.SOME_FAILED if bad else ExitCode.DONE

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "schema": 1,
            "copies": [
                {
                    "vm": copy.key,
                    "stamp": copy.stamp,
                    "good": not copy.problem,
                    "problem": copy.problem,
                    "archived": copy.archived,
                    "size": copy.size,
                }
                for copy in self.examined
            ],
            "skipped": [{"vm": key, "reason": reason} for key, reason in self.skipped.items()],
            "unread": [{"vm": key, "reason": reason} for key, reason in self.unread.items()],
        }


def interrupted(report: Findings) -> str:
    """What ^C leaves: that nothing is half done, and how to go on."""
    good = sum(not copy.problem for copy in report.examined)
    return (
        f"interrupted: {len(report.examined)} copies were read, {good} of them good; the one that "
        "was being read is as it was, nothing is left of it. `vmbackup-admin verify --due` goes on "
        "with those whose turn it is"
    )


def gone(site: "Site", before: "VmRecord", report: Findings) -> str:
    """That the newest copy is not there any more; empty for one that was found damaged."""
    now, last = site.database.head().contents.vms.get(before.key), before.last_copy
    if (
        now is None
        or last is None
        or (now.last_copy is not None and now.last_copy.claim >= last.claim)
    ):
        return ""
    damaged = any(
        (copy.key, copy.stamp) == (before.key, last.stamp) and copy.problem
        for copy in report.examined
    )
    return "" if damaged else f"the newest copy {last.stamp} is gone"
