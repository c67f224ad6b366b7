"""Faults of a simulated host, read from `faults.json` in its VBOX_USER_HOME at each call.

`SimulatedHost.fault` writes it.

A host-wide fault is a key of the file; a fault of machines is one too and then concerns all of
them, or stands under `"vms": {"name or uuid": {…}}` and concerns one. No file: no faults.
"""

import json
import os
from dataclasses import dataclass, fields, replace
from typing import Any, Literal


@dataclass(frozen=True)
class MachineFaults:
    """What can be wrong with one machine. Percentages are of an export's disk data; None: never."""

    #: An export takes at least this long, spread evenly.
    export_seconds: float = 0.0
    #: An export writes no faster than this.
    export_bytes_per_second: float = 0.0
    #: The target is full at this point: VERR_DISK_FULL, status 1, nothing left.
    export_disk_full_at: float | None = None
    #: Reading the disk fails at this point: VERR_READ_ERROR, status 1, nothing left.
    export_fails_at: float | None = None
    #: The export stands still at this point until it is cancelled.
    export_hangs_at: float | None = None
    #: SIGINT and SIGTERM do nothing: neither does the service stop, nor the client end.
    export_ignores_signals: bool = False
    #: VBoxSVC is killed at this point: NS_ERROR_ABORT, status 1, the partial file stays.
    export_service_dies_at: float | None = None
    #: Status 0 and the line of success, but: the file has lost its second half; a byte of the disk
    #: is wrong; there is no manifest; there is no file; VBoxManage printed an error.
    export_lie: Literal["", "truncated", "damaged", "no_manifest", "no_file", "error_on_stderr"] = (
        ""
    )
    #: Its user starts it just before the export begins.
    starts_before_export: bool = False
    #: `showvminfo` says this instead of the state ("saving", "livesnapshotting", …).
    shown_state: str = ""


@dataclass(frozen=True)
class HostFaults:
    """What can be wrong with a host."""

    #: Every command waits this long before it does anything.
    hang_seconds: float = 0.0
    #: Every command prints what /usr/bin/VBoxManage prints on stdout while the kernel module is
    #: missing.
    warning_lines: bool = False
    #: The next so many calls of `showvminfo` fail with `The object is not ready`.
    not_ready: int = 0
    #: The next so many commands fail with `Failed to create the VirtualBox object!`, as while
    #: VBoxSVC ends.
    refused: int = 0
    #: Every import, also on trial, is refused with this text.
    import_refuses: str = ""
    #: The next so many imports, also on trial, cannot read the copy.
    import_unreadable: int = 0


class Faults:
    """The faults of the host with this VBOX_USER_HOME."""

    def __init__(self, home: str) -> None:
        self.path = os.path.join(home, "faults.json")
        try:
            with open(self.path, encoding="utf-8") as file:
                self.values: dict[str, Any] = json.load(file)
        except FileNotFoundError:
            self.values = {}
        self.host = HostFaults(**_only(HostFaults, self.values))

    def of(self, uuid: str, name: str) -> MachineFaults:
        faults = MachineFaults(**_only(MachineFaults, self.values))
        for key in (name, uuid):
            faults = replace(faults, **self.values.get("vms", {}).get(key, {}))
        return faults

    def take(self, name: str) -> bool:
        """Whether this call is one of the next so many that fail; counts down."""
        left = int(self.values.get(name, 0))
        if left > 0:
            self.values[name] = left - 1
            self.write()
        return left > 0

    def write(self) -> None:
        with open(f"{self.path}.new", "w", encoding="utf-8") as file:
            json.dump(self.values, file)
        os.replace(f"{self.path}.new", self.path)


def _only(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    return {entry.name: values[entry.name] for entry in fields(kind) if entry.name in values}


def check_names(names: set[str], *, of_machine: bool) -> None:
    """Raises TypeError for a fault that does not exist."""
    known = {entry.name for entry in fields(MachineFaults)} | (
        set() if of_machine else {entry.name for entry in fields(HostFaults)}
    )
    if names - known:
        raise TypeError(f"no such fault: {', '.join(sorted(names - known))}")
