"""The settings of the NAS."""

import os
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, StrictBool, ValidationInfo, field_validator

from shared.host.configuration.values import HOUR, Section, Size, without_null

#: The directory of the state database, at the top of the NAS.
STATE_DIRECTORY: Final = "vmstate"
_ANOTHER: Final = 'name a directory of its own, like "archive"'


class Nas(Section):
    """The NAS that all hosts share."""

    mountpoint: Path = Field(
        Path(), description="Where the NAS is mounted. The only setting that each host must have."
    )
    archive_directory: Path = Field(
        Path("archive"),
        description="Where archived copies go. Relative: below the mount point. Neither the "
        "mount point itself, nor vmstate, nor a "
        "directory that holds or is the directory of a VM.",
    )
    require_mount: StrictBool = Field(
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
    reflink: Literal["auto"] | StrictBool = Field(
        "auto",
        description="Copies are laid out so that a NAS whose file system shares blocks between "
        "files (XFS with reflink, btrfs, ZFS with block cloning) stores once what did not change. "
        "Makes them 0.5 % larger. auto: where it was measured that the NAS does so.",
    )
    shared_group: StrictBool = Field(
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
        if Path(os.path.normpath(value)) in (Path("/"), Path("//")):
            raise ValueError(f"{value} is this host's own root, where no NAS is mounted")
        return without_null(value)

    @field_validator("archive_directory")
    @classmethod
    def _place_of_its_own(cls, value: Path, info: ValidationInfo) -> Path:
        """By its name; `shared.copies.archive_location` asks where it is."""
        if ".." in value.parts:
            raise ValueError(
                "must not have .. in it, which may lead anywhere: write the directory that is meant"
            )
        if str(value).startswith("~"):
            raise ValueError("must not begin with ~, which is no home directory here")
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
