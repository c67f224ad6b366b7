"""All settings: of the NAS, of this host and its VirtualBox, and of what is done with VMs.

The fields here, in `nas`, `policy` and `telling` are the only place where a setting is described:
`config generate`, the sample file and the reference in the documentation are made from them.
"""

import glob
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from shared.host.configuration.backup import Backup
from shared.host.configuration.nas import Nas
from shared.host.configuration.policy import PolicyTable, VmPolicy
from shared.host.configuration.telling import Metrics, NotifyTarget, Page, Ping, TargetName
from shared.host.configuration.values import (
    DAY,
    PLAIN_NAME,
    Section,
    absolute_or_nothing,
    or_nothing,
    user_path,
    without_null,
)
from shared.host.configuration_places import usual_state_directory


class Host(Section):
    """This host."""

    node: str = Field(
        "",
        description=(
            "This host's name in the database. Empty: its host name up to the first "
            "dot. Must be unique."
        ),
    )
    state_directory: Path = Field(
        Path(),
        description=(
            "Local directory for this host's own locks and notes. Empty: "
            "/var/lib/vmbackup as root, else ~/.local/state/vmbackup."
        ),
    )

    @field_validator("node")
    @classmethod
    def _plain_node(cls, value: str) -> str:
        name = value or socket.gethostname().split(".")[0]
        if not PLAIN_NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} may only have letters, digits, dots, hyphens and underscores, 63 at most"
            )
        return name

    _no_dot = field_validator("state_directory", mode="before")(or_nothing)

    @field_validator("state_directory")
    @classmethod
    def _default_directory(cls, value: Path) -> Path:
        if value == Path():
            return default_state_directory()
        if not (path := user_path(value)).is_absolute():
            raise ValueError(
                f"{value} is another directory for each program: write an absolute path"
            )
        return without_null(path)


def default_state_directory() -> Path:
    """Where a host's own locks and notes are if nothing else is set. ValueError without a home."""
    return user_path(usual_state_directory())


class VirtualBox(Section):
    """How VirtualBox is reached. Workers must run as the user who owns the VMs."""

    vboxmanage: str = Field(
        "VBoxManage",
        min_length=1,
        description="The program to call: a name on the PATH, or a path.",
    )
    home: Path = Field(
        Path(),
        description=(
            "VirtualBox's own settings directory. Empty: $VBOX_USER_HOME, else the "
            "platform's default."
        ),
    )
    timeout_seconds: float = Field(
        120,
        gt=0,
        le=DAY,
        description="How long one VBoxManage query may take. Exports have `backup.stall_seconds`.",
    )

    _no_dot = field_validator("home", mode="before")(or_nothing)
    _absolute = field_validator("home")(absolute_or_nothing)

    @field_validator("vboxmanage")
    @classmethod
    def _a_program(cls, value: str) -> str:
        without_null(Path(value))
        return value


class StateSettings(Section, title="State"):
    """The state database on the NAS."""

    readable: Literal["", "group", "all"] = Field(
        "",
        description="Who may read the database besides its owner and group, who may change it: "
        '`"all"` lets every user do so, for monitoring; `"group"` takes that back. Empty: '
        "its rights stay as they are. The copies are not meant.",
    )
    history_days: int = Field(
        400,
        ge=30,
        le=36500,
        description="How many days back `vmbackup-admin log` reaches: older commits are removed. "
        "The fewest days of any host count, so all hosts should have the same.",
    )


class Configuration(Section):
    """All settings."""

    nas: Nas
    state: StateSettings = Field(default_factory=lambda: StateSettings.model_validate({}))
    host: Host
    virtualbox: VirtualBox
    backup: Backup
    policy: dict[str, PolicyTable]
    ping: Ping = Ping()
    metrics: Metrics = Metrics.model_validate({})
    page: Page = Page.model_validate({})
    notify: dict[TargetName, NotifyTarget] = Field(default_factory=dict)

    @field_validator("policy")
    @classmethod
    def _for_some_vm(cls, value: dict[str, PolicyTable]) -> dict[str, PolicyTable]:
        if "" in value and not value[""].group:
            raise ValueError('[policy.""] is for no VM: write a name or a pattern, like "web*"')
        return value

    def table_for(self, vm_name: str, groups: Iterable[str] = ()) -> tuple[str, PolicyTable] | None:
        """The first `[policy."PATTERN"]` that is for a VM of that name in these groups.

        With its pattern. Patterns are those of the shell (`*`, `?`, `[abc]`), and case counts.
        """
        inside = tuple(groups)
        return next(
            (found for found in self.policy.items() if found[1].is_for(found[0], vm_name, inside)),
            None,
        )

    def policy_for(self, vm_name: str, groups: Iterable[str] = ()) -> VmPolicy:
        """The settings of one VM: those of its table, over those of `[backup]`."""
        names = VmPolicy.model_fields
        found = self.table_for(vm_name, groups)
        own = found[1].model_dump(exclude_unset=True, exclude={"group"}) if found else {}
        return VmPolicy.model_validate({name: getattr(self.backup, name) for name in names} | own)

    def without_waiting(self, vm_name: str, groups: Iterable[str] = ()) -> "Configuration":
        """These settings for a backup of one VM that its operator wants now.

        Its window is open, and where a running VM would be left alone it is backed up live. All
        else of its policy stays.
        """
        policy = self.policy_for(vm_name, groups)
        running = "live" if policy.running == "defer" else policy.running
        own = PolicyTable.model_validate({**policy.model_dump(), "window": "", "running": running})
        pattern = glob.escape(vm_name)
        others = {name: table for name, table in self.policy.items() if name != pattern}
        return self.model_copy(update={"policy": {pattern: own, **others}})
