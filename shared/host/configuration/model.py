"""All settings: of the NAS, of this host and its VirtualBox, and of what is done with VMs.

The fields here and in `policy` are the only place where a setting is described: `config generate`,
the sample file and the reference in the documentation are made from them.
"""

import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from shared.host.configuration.policy import Backup, PolicyTable, VmPolicy
from shared.host.configuration.telling import NotifyTarget, Ping, TargetName
from shared.host.configuration.values import DAY, HOUR, Section, Size, user_path, without_null

#: The directory of the state database, at the top of the NAS.
STATE_DIRECTORY: Final = "vmstate"
_ANOTHER: Final = 'name a directory of its own, like "archive"'

_NODE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class Nas(Section):
    """The NAS that all hosts share."""

    mountpoint: Path = Field(
        Path(), description="Where the NAS is mounted. The only setting without a default."
    )
    archive_directory: Path = Field(
        Path("archive"),
        description="Where archived copies go. Relative: below the mount point. Neither the "
        "mount point itself, nor vmstate, nor a "
        "directory that holds or is the directory of a VM.",
    )
    require_mount: bool = Field(
        default=True,
        description=(
            "Refuse to work unless something is mounted there. False only for a plain "
            "local directory."
        ),
    )
    reserve: Size = Field(
        2**30,
        description="Space that is left free on the NAS: no export starts that would go below it.",
    )
    reflink: Literal["auto"] | bool = Field(
        "auto",
        description="Copies are laid out so that a NAS whose file system shares blocks between "
        "files (XFS with reflink, btrfs, ZFS with block cloning) stores once what did not change. "
        "Makes them 0.5 % larger. auto: where it was measured that the NAS does so.",
    )
    shared_group: bool = Field(
        default=False,
        description="Every member of the NAS directory's group may add, move and remove copies: "
        "for hosts whose workers run as different "
        "users. Otherwise the group may read copies, and only the user who made them changes them.",
    )
    probe_seconds: float = Field(
        30,
        gt=0,
        le=HOUR,
        description="How long the NAS may take to answer before it counts as gone.",
    )

    @field_validator("mountpoint")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if value == Path():
            raise ValueError("is not set: write it into the file or set NAS_MOUNTPOINT")
        if not value.is_absolute():
            raise ValueError("must be an absolute path")
        return without_null(value)

    @field_validator("archive_directory")
    @classmethod
    def _place_of_its_own(cls, value: Path, info: ValidationInfo) -> Path:
        """By its name; `shared.copies.archive_location` asks where it is."""
        if ".." in value.parts:
            raise ValueError(
                "must not have .. in it, which may lead anywhere: write the directory that is meant"
            )
        mountpoint = info.data.get("mountpoint")
        if mountpoint is None:
            return without_null(value)
        top, archive = (
            Path("/", os.path.normpath(path).lstrip("/"))
            for path in (mountpoint, mountpoint / value)
        )
        if archive == top:
            raise ValueError(
                f"is the NAS's mount point itself, where the copies are that are not archived: "
                f"{_ANOTHER}"
            )
        if archive in top.parents:
            raise ValueError(
                f"contains the NAS's mount point, where the copies are that are not archived: "
                f"{_ANOTHER}"
            )
        if (
            archive.is_relative_to(top)
            and archive.relative_to(top).parts[0].casefold() == STATE_DIRECTORY
        ):
            raise ValueError(f"is in {STATE_DIRECTORY}, where the state database is: {_ANOTHER}")
        return without_null(value)

    @property
    def archive(self) -> Path:
        """The archive directory as an absolute path."""
        return self.mountpoint / self.archive_directory

    @property
    def state(self) -> Path:
        """The directory of the state database."""
        return self.mountpoint / STATE_DIRECTORY


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
        if not _NODE.fullmatch(name):
            raise ValueError(
                f"{name!r} may only have letters, digits, dots, hyphens and underscores, 63 at most"
            )
        return name

    @field_validator("state_directory")
    @classmethod
    def _default_directory(cls, value: Path) -> Path:
        return default_state_directory() if value == Path() else user_path(value).absolute()


def default_state_directory() -> Path:
    """Where a host's own locks and notes are if nothing else is set. ValueError without a home."""
    if os.geteuid() == 0:
        return Path("/var/lib/vmbackup")
    return user_path(Path("~/.local/state/vmbackup"))


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

    @field_validator("home")
    @classmethod
    def _expanded(cls, value: Path) -> Path:
        return user_path(value)


class State(Section):
    """The state database on the NAS."""

    readable: Literal["", "group", "all"] = Field(
        "",
        description="Who may read the database besides its owner and group, who may change it: "
        '`"all"` lets every user do so, for monitoring; `"group"` takes that back. Empty: '
        "its rights stay as they are. The copies are not meant.",
    )


class Configuration(Section):
    """All settings."""

    nas: Nas
    state: State = Field(default_factory=lambda: State.model_validate({}))
    host: Host
    virtualbox: VirtualBox
    backup: Backup
    policy: dict[str, PolicyTable]
    ping: Ping = Ping()
    notify: dict[TargetName, NotifyTarget] = Field(default_factory=dict)

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
