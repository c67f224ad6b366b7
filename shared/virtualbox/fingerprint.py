"""What a stopped VM is, in a few short strings.

Two that are equal mean that it was neither used nor changed in between.

No single sign is enough (measured, VirtualBox 7.2.22): the time of the last state change misses
every change of settings, and a run that ended in a power failure, which only the disk files show;
the settings file misses that run and every edit of a disk; the disk files miss the settings.
Reading, listing and exporting a VM changes none of them.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Final, Self

from shared.host.errors import VBoxManageError
from shared.virtualbox.inventory import Machine
from shared.virtualbox.storage import files_of

#: How the values below are computed. A fingerprint of another version equals none of this one: one
#: backup too many, never one too few.
VERSION: Final = "1"

_MEANINGS: Final = {
    "version": "it was last looked at by another version of vmbackup",
    "changed": "it was started, stopped or restored",
    "state": "its power state changed",
    "snapshot": "its current snapshot changed",
    "settings": "its settings changed",
    "disks": "its disks were written",
    "firmware": "its firmware variables changed",
}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The signs. All values are short strings; what a VM does not have is empty."""

    version: str = ""
    #: `off`, `saved` or `aborted`.
    state: str = ""
    #: When it was last started or stopped, UTC in whole seconds, as its settings file has it.
    changed: str = ""
    #: UUID of its current snapshot.
    snapshot: str = ""
    #: Digest of its settings without the three values above: a file rewritten without a change
    #: keeps it.
    settings: str = ""
    #: Digest of identity, size and modification time of every image it stands on.
    disks: str = ""
    #: Size and modification time of its firmware variables.
    firmware: str = ""

    def to_json(self) -> dict[str, str]:
        """As plain values; what is empty is left out."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name))}

    @classmethod
    def from_json(cls, document: Mapping[str, str]) -> Self:
        """The inverse of `to_json`; unknown keys are ignored."""
        return cls(**{item.name: str(document.get(item.name, "")) for item in fields(cls)})


def fingerprint_of(machine: Machine) -> Fingerprint:
    """Looks at a VM that is stopped: what it is while it runs says nothing.

    Raises `VBoxManageError` if it is inaccessible.

    The files are looked at now, the settings are those of the inventory: for a look after an export
    take a new inventory.
    """
    settings = machine.settings
    if settings is None or not machine.accessible:
        raise VBoxManageError(f"{machine.name or machine.uuid}: {machine.reason}")
    lines = [
        f"{image.uuid} {sign}" for image in machine.images for sign in map(_sign, files_of(image))
    ]
    return Fingerprint(
        version=VERSION,
        state="saved" if settings.state_file else "aborted" if settings.aborted else "off",
        changed=settings.last_state_change,
        snapshot=settings.snapshot,
        settings=settings.digest[:32],
        disks=hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32],
        firmware=_sign(machine.nvram_file),
    )


def differences(before: Fingerprint, after: Fingerprint) -> tuple[str, ...]:
    """What happened between two looks, in words for the log; empty: nothing."""
    return tuple(_changes(before, after))


def _changes(before: Fingerprint, after: Fingerprint) -> Iterator[str]:
    if before.version != after.version:
        yield _MEANINGS["version"]
        return
    for name, meaning in _MEANINGS.items():
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield (
                f"{meaning} ({old or 'none'} -> {new or 'none'})"
                if name in {"changed", "state"}
                else meaning
            )


def _sign(path: str) -> str:
    """Size and modification time, empty if it is not there.

    Whoever resets the time after writing (`touch -r`) is not noticed.
    """
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"
