"""Settings of what is done with VMs: those that `[policy."PATTERN"]` can set for some of them."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final, Literal

from pydantic import Field, StrictBool, field_validator

from shared.host.configuration.values import DAY, YEAR_DAYS, Command, Hours, Section

#: What makes a pattern of a name.
_WILD: Final = re.compile(r"[*?\[]")


class VmPolicy(Section):
    """What may differ from VM to VM."""

    backup: Literal["always", "never"] = Field(
        "always",
        description="never: the VM is left out of backups. It is shown as left out, and its copies "
        "stay and can be restored.",
    )
    vm_decides: StrictBool = Field(
        default=False,
        description="Obey what a VM says of itself: `VBoxManage setextradata VM vmbackup/backup "
        "never` (or always). Clones and imported VMs bring extra data along, so that "
        "is ignored unless allowed here.",
    )
    running: Literal["defer", "savestate", "shutdown", "live", "pause"] = Field(
        "defer",
        description="What to do with a VM that runs: defer (wait until it stops), savestate "
        "(save, export, resume), shutdown (power "
        "button, export, start again), live (snapshot and export of a linked clone) or pause "
        "(stands still for a moment while its disks are cloned, where their file system has "
        "reflinks; elsewhere live).",
    )
    pause_seconds: float = Field(
        5,
        ge=1,
        le=60,
        description='How long a VM may stand still with running = "pause". One whose disks would '
        "take longer, because they are fragmented, is copied live.",
    )
    running_hours: float = Field(
        24,
        ge=0,
        le=24 * 10 * YEAR_DAYS,
        description="A VM that runs and is not deferred is backed up this often.",
    )
    live_when_stopped: StrictBool = Field(
        default=False,
        description=(
            "Use the live method for stopped VMs too, so that their users can start "
            "them during an export."
        ),
    )
    shutdown_seconds: float = Field(
        300,
        gt=0,
        le=DAY,
        description="How long a VM may take to shut down after its power button was pressed.",
    )
    pull_plug: StrictBool = Field(
        default=False,
        description="Switch a VM off that does not shut down in time. Its guest may lose data.",
    )
    saved: Literal["keep", "warn"] = Field(
        "keep",
        description=(
            "A saved VM's memory is not in an OVA: keep its saved-state file beside the "
            "copy, or only warn."
        ),
    )
    window: Hours = Field(
        "",
        description=(
            "Exports start only in these hours of local time, like 22:00-06:00. Empty: always."
        ),
    )
    keep_last: int = Field(2, ge=1, le=1000, description="Newest good copies kept of each VM.")
    keep_daily: int = Field(
        0, ge=0, le=1000, description="The newest good copy of each of so many days is kept, too."
    )
    keep_weekly: int = Field(0, ge=0, le=1000, description="The same for weeks.")
    keep_monthly: int = Field(0, ge=0, le=1000, description="The same for months.")
    keep_yearly: int = Field(0, ge=0, le=1000, description="The same for years.")
    verify_days: float = Field(
        30,
        ge=0,
        le=10 * YEAR_DAYS,
        description=(
            "Each copy is read again and compared with its digests at least this often. 0: never."
        ),
    )
    rehearse_days: float = Field(
        0,
        ge=0,
        le=10 * YEAR_DAYS,
        description="The newest copy of each VM is tried out at least this often, by any host with "
        "this setting and room for it: started from the copy without its network, watched, and "
        "removed. 0: never.",
    )
    rehearse_window: Hours = Field(
        "",
        description="Such rehearsals start only in these hours of local time, like 02:00-06:00. "
        "Empty: always.",
    )
    rehearse_seconds: float = Field(
        120, ge=1, le=DAY, description="How long a VM may take to come up in them."
    )
    max_age_hours: float = Field(
        26,
        gt=0,
        le=24 * 10 * YEAR_DAYS,
        description="`vmbackup-admin check` complains of a VM that nobody has looked at for so "
        "long or, if it was used, that has no copy since.",
    )
    may_be_off: StrictBool = Field(
        default=False,
        description=(
            "Its host may be off for days (a laptop): that nobody looks at the VM is no fault then."
        ),
    )
    before: Command = Field(
        [],
        description=(
            "Command (program and arguments) before a backup. If it fails, the VM is skipped."
        ),
    )
    after: Command = Field([], description="Command after a successful backup.")
    failed: Command = Field([], description="Command after a failed backup.")
    hook_seconds: float = Field(
        300, gt=0, le=7 * DAY, description="How long one of these commands may take."
    )
    engine: Literal["auto", "vboxmanage", "parallel"] = Field(
        "auto",
        description=(
            "What exports: VBoxManage (vboxmanage), our own engine on all cores (parallel), or "
            "that one for every VM whose disks it can read (auto)."
        ),
    )

    changed: Literal["auto", "off"] = Field(
        "off",
        description=(
            "Save work where that is safe (auto): on a file system with reflinks (XFS, btrfs) a "
            "VM's images are cloned in a moment and exported from there, so that it can be started "
            "a second after its backup began, and where the NAS copies by itself the next backup "
            "reads only what changed. On other file systems all is read, and the VM locked "
            "meanwhile, but only what changed is compressed and sent. off: all is read, and sent "
            "where the NAS does not have the same already."
        ),
    )

    @field_validator("before", "after", "failed")
    @classmethod
    def _begins_with_a_program(cls, value: list[str]) -> list[str]:
        if value and not value[0]:
            raise ValueError("must begin with a program; [] is none")
        return value


class PolicyTable(VmPolicy):
    """What is done with the VMs of one `[policy."PATTERN"]`."""

    group: str = Field(
        "",
        validate_default=False,  # "" says that there is none, and may not be written
        description="Only VMs in this VirtualBox group, or in one below it. A PATTERN without *, ? "
        "and [ is then no more than a title.",
    )

    @field_validator("group")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith("/"):
            raise ValueError("must begin with /, as VirtualBox writes groups, like /office")
        if _WILD.search(value):
            raise ValueError("is the name of a group, without *, ? and [: all below it are meant")
        return value.rstrip("/") or value[:1]

    def is_for(self, pattern: str, name: str, groups: Iterable[str]) -> bool:
        """Whether it is for a VM of that name in these groups. `pattern` is that of its table."""
        if not self.group:
            return fnmatchcase(name, pattern)
        inside = self.group.rstrip("/") + "/"
        return any(f"{group.rstrip('/')}/".startswith(inside) for group in groups) and (
            fnmatchcase(name, pattern) or not _WILD.search(pattern)
        )
