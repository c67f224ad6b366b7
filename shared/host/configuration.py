"""The configuration.

One TOML file, a few environment variables over it, every error reported at once.

The fields below are the only place where a setting is described: `config generate`, the sample file
and the reference in the documentation are made from them.
"""

import contextlib
import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from shared.host.errors import ConfigurationError

#: Environment variables that beat the file.
ENVIRONMENT: Final[Mapping[str, tuple[str, str]]] = {
    "NAS_MOUNTPOINT": ("nas", "mountpoint"),
    "ARCHIVE_DIR": ("nas", "archive_directory"),
    "VMBACKUP_NODE": ("host", "node"),
    "VMBACKUP_VBOXMANAGE": ("virtualbox", "vboxmanage"),
}

#: Where a configuration is looked for when neither `--config` nor `$VMBACKUP_CONFIG` names one.
DEFAULT_PATHS: Final = (Path("/etc/vmbackup/config.toml"), Path("~/.config/vmbackup/config.toml"))

#: The directory of the state database, at the top of the NAS.
STATE_DIRECTORY: Final = "vmstate"
_ANOTHER: Final = 'name a directory of its own, like "archive"'

_UNITS: Final = {
    "": 1,
    "B": 1,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_WINDOW: Final = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")
_NODE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def parse_size(value: object) -> object:
    """Bytes from `"10 GiB"`, `"500MB"` or a number; anything else is left for the model to refuse."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]*)\s*", value)
    if not match or match[2].upper() not in _UNITS:
        raise ValueError('a size looks like 500, "10 GiB" or "2 TB"')
    return int(float(match[1]) * _UNITS[match[2].upper()])


#: At most what a file system can have. Numbers beyond that, and beyond the bounds below, are slips;
#: some meet limits of the system.
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0, le=2**63 - 1)]
_HOUR: Final = 3600
_DAY: Final = 24 * _HOUR
_YEAR_DAYS: Final = 366


def _user_path(value: Path) -> Path:
    """With `~` as the home directory.

    Raises ValueError if there is none: no HOME, and no entry for this user in the list of users.
    """
    try:
        return value.expanduser()
    except RuntimeError:
        raise ValueError(
            f"{value} cannot be found: this user has no home directory. Set HOME, or write an "
            f"absolute path"
        ) from None


def _without_null(value: Path) -> Path:
    if "\0" in str(value):
        raise ValueError("must not have a NUL character in it")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        str_strip_whitespace=True,
        allow_inf_nan=False,
    )


class Nas(_Section):
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
    reflink: bool = Field(
        default=False,
        description="The NAS's file system shares blocks between files (XFS with reflink, "
        "btrfs, ZFS with block cloning): copies over "
        "NFS 4.2 are laid out so that what did not change is stored once. Makes them 0.5 % larger.",
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
        le=_HOUR,
        description="How long the NAS may take to answer before it counts as gone.",
    )

    @field_validator("mountpoint")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if value == Path():
            raise ValueError("is not set: write it into the file or set NAS_MOUNTPOINT")
        if not value.is_absolute():
            raise ValueError("must be an absolute path")
        return _without_null(value)

    @field_validator("archive_directory")
    @classmethod
    def _place_of_its_own(cls, value: Path, info: ValidationInfo) -> Path:
        """By its name; `shared.copies.archive` asks where it is."""
        if ".." in value.parts:
            raise ValueError(
                "must not have .. in it, which may lead anywhere: write the directory that is meant"
            )
        mountpoint = info.data.get("mountpoint")
        if mountpoint is None:
            return _without_null(value)
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
        return _without_null(value)

    @property
    def archive(self) -> Path:
        """The archive directory as an absolute path."""
        return self.mountpoint / self.archive_directory

    @property
    def state(self) -> Path:
        """The directory of the state database."""
        return self.mountpoint / STATE_DIRECTORY


class Host(_Section):
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
        if value != Path():
            return _user_path(value).absolute()
        return (
            Path("/var/lib/vmbackup")
            if os.geteuid() == 0
            else _user_path(Path("~/.local/state/vmbackup"))
        )


class VirtualBox(_Section):
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
        le=_DAY,
        description="How long one VBoxManage query may take. Exports have `backup.stall_seconds`.",
    )

    @field_validator("home")
    @classmethod
    def _expanded(cls, value: Path) -> Path:
        return _user_path(value)


class VmPolicy(_Section):
    """What may differ from VM to VM."""

    running: Literal["defer", "savestate", "shutdown", "live"] = Field(
        "defer",
        description="What to do with a VM that runs: defer (wait until it stops), savestate "
        "(save, export, resume), shutdown (power "
        "button, export, start again) or live (snapshot and export of a linked clone).",
    )
    running_hours: float = Field(
        24,
        ge=0,
        le=24 * 10 * _YEAR_DAYS,
        description="A VM that runs and is not deferred is backed up this often.",
    )
    live_when_stopped: bool = Field(
        default=False,
        description=(
            "Use the live method for stopped VMs too, so that their users can start "
            "them during an export."
        ),
    )
    shutdown_seconds: float = Field(
        300,
        gt=0,
        le=_DAY,
        description="How long a VM may take to shut down after its power button was pressed.",
    )
    pull_plug: bool = Field(
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
    window: str = Field(
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
        le=10 * _YEAR_DAYS,
        description=(
            "Each copy is read again and compared with its digests at least this often. 0: never."
        ),
    )
    before: list[str] = Field(
        [],
        description=(
            "Command (program and arguments) before a backup. If it fails, the VM is skipped."
        ),
    )
    after: list[str] = Field([], description="Command after a successful backup.")
    failed: list[str] = Field([], description="Command after a failed backup.")
    hook_seconds: float = Field(
        300, gt=0, le=7 * _DAY, description="How long one of these commands may take."
    )
    engine: Literal["auto", "vboxmanage", "parallel"] = Field(
        "auto",
        description=(
            "What exports: VBoxManage, the parallel engine, or (auto) the parallel one "
            "for every VM whose disks it can read."
        ),
    )

    @field_validator("window")
    @classmethod
    def _hours(cls, value: str) -> str:
        if value and not _WINDOW.fullmatch(value):
            raise ValueError("must look like 22:00-06:00")
        return value


class Backup(VmPolicy):
    """How VMs are backed up. Settings that `[policy."NAME"]` also has are the defaults for all VMs."""

    parallel: int = Field(
        1, ge=1, le=64, description="How many backup workers may run on this host at the same time."
    )
    exports_on_nas: int = Field(
        0,
        ge=0,
        le=1000,
        description="How many exports all hosts together may run on the NAS. 0: no limit.",
    )
    cores: int = Field(
        0,
        ge=0,
        le=1024,
        description="Processor cores that the parallel engine may use for one VM. 0: all.",
    )
    whole_every: int = Field(
        10,
        ge=1,
        le=1000,
        description=(
            "Where a copy may take over bytes from the one before it (NFS 4.2): one of "
            "so many is sent whole."
        ),
    )
    nice: int = Field(
        10, ge=0, le=19, description="How far exports stand back for other processes of this host."
    )
    retry_seconds: float = Field(
        300,
        ge=0,
        le=_DAY,
        description="When only running VMs are left: how long to go on looking whether one stops.",
    )
    retry_interval_seconds: float = Field(
        30, gt=0, le=_DAY, description="How often to look meanwhile."
    )
    stall_seconds: float = Field(
        900,
        gt=0,
        le=7 * _DAY,
        description="An export that has not grown for this long is cancelled and counts as failed.",
    )
    verify_bytes: Size = Field(
        500 * 2**30, description="How much one host verifies in a day at most."
    )


class Configuration(_Section):
    """All settings."""

    nas: Nas
    host: Host
    virtualbox: VirtualBox
    backup: Backup
    policy: dict[str, VmPolicy]

    def policy_for(self, vm_name: str) -> VmPolicy:
        """The settings of one VM.

        Those of the first `[policy."PATTERN"]` that matches its name, over those of `[backup]`.

        Patterns are those of the shell (`*`, `?`, `[abc]`), and case counts.
        """
        names = VmPolicy.model_fields
        values = {name: getattr(self.backup, name) for name in names}
        matching = next(
            (policy for pattern, policy in self.policy.items() if fnmatchcase(vm_name, pattern)),
            None,
        )
        return VmPolicy.model_validate(
            values | (matching.model_dump(exclude_unset=True) if matching else {})
        )


def find(explicit: str | None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The configuration file to read.

    `explicit`, else `$VMBACKUP_CONFIG`, else the first default that exists, else None.

    Raises `ConfigurationError` if it is named by a home directory that there is not.
    """
    named = explicit or environment.get("VMBACKUP_CONFIG")
    try:
        if named:
            return _user_path(Path(named))
    except ValueError as error:
        raise ConfigurationError(f"the configuration {error}") from None
    for candidate in DEFAULT_PATHS:
        with contextlib.suppress(
            ValueError, OSError
        ):  # a user without a home, or who may not look there
            if (path := _user_path(candidate)).is_file():
                return path
    return None


def load(explicit: str | None = None, environment: Mapping[str, str] = os.environ) -> Configuration:
    """Reads the configuration.

    Raises `ConfigurationError` that lists every error of the file, each with its key.
    """
    path = find(explicit, environment)
    values = _read(path) if path else {}
    for name in Configuration.model_fields:
        values.setdefault(
            name, {}
        )  # so that a section's own defaults are checked like a file's values
    for variable, (section, key) in ENVIRONMENT.items():
        if environment.get(variable):
            table = values.setdefault(section, {})
            if isinstance(table, dict):
                table[key] = environment[variable]
    try:
        return Configuration.model_validate(values)
    except ValidationError as error:
        place = str(path) if path else "no configuration file, environment only"
        lines = [f"  {key}: {message}" for key, message in _problems(error)]
        raise ConfigurationError(
            f"the configuration is wrong ({place}):\n" + "\n".join(lines),
            hint="`vmbackup-admin config generate` prints a file with every setting explained",
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the configuration {path}: {error.strerror}"
        ) from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # also of UTF-8, of numbers too long, and of what is nested too deeply
        raise ConfigurationError(f"the configuration {path} is not valid TOML: {error}") from None


def _problems(error: ValidationError) -> Iterator[tuple[str, str]]:
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"]) or "(file)"
        message = (
            "is not a setting"
            if problem["type"] == "extra_forbidden"
            else problem["msg"].removeprefix("Value error, ")
        )
        yield key, message
