"""Settings of `[backup]`: those of this host, and what is done with VMs that no policy names."""

from pydantic import Field, field_validator

from shared.host.configuration.policy import VmPolicy
from shared.host.configuration.values import DAY, LEAST_RATE, PLAIN_NAME, Size


class Backup(VmPolicy):
    """How VMs are backed up. What `[policy."NAME"]` can also set is the default for all VMs."""

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
    bytes_per_second: Size = Field(
        0,
        description="How much this host sends and reads in a second for backups and verifications, "
        "all of its workers together. 0: no limit; at least 100 kB. Restores are not bounded, nor "
        'are exports that VBoxManage makes: engine = "parallel" allows none of those.',
    )
    whole_every: int = Field(
        10,
        ge=1,
        le=1000,
        description=(
            "Where a copy may take over bytes from the one before it: one of so many is sent whole."
        ),
    )
    clone_free: float = Field(
        10,
        ge=0,
        le=100,
        description=(
            'With changed = "auto", and by restore --into: clones of images are made and kept only '
            "while so many percent of their file system are free."
        ),
    )
    nice: int = Field(
        10, ge=0, le=19, description="How far exports stand back for other processes of this host."
    )
    retry_seconds: float = Field(
        300,
        ge=0,
        le=DAY,
        description="When only running VMs are left: how long to go on looking whether one stops.",
    )
    retry_interval_seconds: float = Field(
        30, gt=0, le=DAY, description="How often to look meanwhile."
    )
    stall_seconds: float = Field(
        900,
        gt=0,
        le=7 * DAY,
        description="An export that has not grown for this long is cancelled and counts as failed.",
    )
    hosts_may_be_off: list[str] = Field(
        [],
        description=(
            "Hosts (by node) that may be off for days: that nobody looks there is no fault."
        ),
    )
    verify_bytes: Size = Field(
        500 * 2**30, description="How much one host verifies in a day at most."
    )

    @field_validator("hosts_may_be_off")
    @classmethod
    def _names_of_hosts(cls, value: list[str]) -> list[str]:
        for name in value:
            if not PLAIN_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is the name of no host, and patterns are not taken")
        return value

    @field_validator("bytes_per_second")
    @classmethod
    def _worth_beginning(cls, value: int) -> int:
        if 0 < value < LEAST_RATE:
            raise ValueError(
                f"{value} bytes in a second is less than {LEAST_RATE // 1000} kB: write the unit, "
                'like "20 MB"; 0 is no limit'
            )
        return value
