"""What tells one running machine from another: name, machine id, boot.

Where the system has no machine id (containers), it is one of our own in the state directory.
"""

import contextlib
import os
import re
import secrets
import socket
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.host import kernel
from shared.host.documents import read_own
from shared.host.errors import ConfigurationError
from shared.host.kernel import Ask
from shared.host.processes import SubprocessRunner

_FILES: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_OWN: Final = "machine-id"
_PATTERN: Final = re.compile(r"[0-9a-f]{32}")
#: Other users of the machine may read it: it is no secret, and they are on the same machine.
_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """What tells one running machine from another.

    `node` is the configured name. `hostname`, `machine` and `space` (the process-number space: a
    container has its own) say whether process numbers can be compared; `boot` says whether the
    machine was restarted in between.
    """

    node: str
    hostname: str
    machine: str
    boot: str
    space: str

    @classmethod
    def of_this_machine(
        cls, node: str, state_directory: Path | None = None, *, make: bool = True
    ) -> "HostIdentity":
        """Reads the identity from the system.

        Empty strings stand for what the system does not tell.

        A machine without a machine id is known by one that is kept in `state_directory` and, unless
        `make` is false, made there. Raises `ConfigurationError` if that cannot be done.
        """
        machine = system_machine_id(_printed)
        if not machine and state_directory is not None:
            machine = own_machine_id(state_directory, make=make)
        return cls(
            node, socket.gethostname(), machine, kernel.boot_id(_printed), kernel.process_space()
        )

    def same_machine(self, other: "HostIdentity") -> bool:
        """Whether process numbers of `other` mean something here.

        False when in doubt: a machine id can be that of a cloned disk.
        """
        return bool(self.machine) and (self.node, self.machine, self.hostname, self.space) == (
            other.node,
            other.machine,
            other.hostname,
            other.space,
        )

    def restarted_since(self, other: "HostIdentity") -> bool:
        """Whether the machine was certainly restarted since `other`, the same machine, was read."""
        return kernel.boots_differ(self.boot, other.boot)


def _printed(arguments: Sequence[str]) -> str:
    try:
        return SubprocessRunner().run(arguments, timeout_seconds=10).stdout
    except OSError:
        return ""


def system_machine_id(
    ask: Ask, files: Sequence[Path] = _FILES, platform: str = sys.platform
) -> str:
    """The machine's id as the system knows it; empty if it has none.

    An image that was never started has `uninitialized` there.
    """
    for path in files:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = path.read_text(encoding="ascii").strip()
            if text and text != "uninitialized":
                return text
    if platform == "darwin":
        for line in ask(["/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice"]).splitlines():
            if "IOPlatformUUID" in line:
                return line.rpartition("=")[2].strip().strip('"')
    return ""


def own_machine_id(state_directory: Path, *, make: bool) -> str:
    """The id that this program gave the machine, kept in the state directory.

    Without `make`, empty if there is none yet or it is hidden.

    It is made once: of two processes that make one at the same time both answer the first. Raises
    `ConfigurationError`.
    """
    path = own_path(state_directory)
    try:
        with contextlib.suppress(FileNotFoundError):
            return _checked(path)
        if not make:
            return ""
        _make(path)
        return _checked(path)
    except OSError as error:
        if not make:
            return ""
        raise ConfigurationError(
            f"this machine has no machine id, and none can be kept in {path}: {error.strerror}",
            hint=(
                "set host.state_directory to one that this user may write, or make "
                "/etc/machine-id (`systemd-machine-id-setup`)"
            ),
        ) from None


def own_path(state_directory: Path) -> Path:
    """Where the machine's id of our own is kept."""
    return state_directory / _OWN


def _checked(path: Path) -> str:
    text = read_own(path).decode("ascii", "replace").strip()
    if not _PATTERN.fullmatch(text):
        raise ConfigurationError(
            f"{path} holds no machine id",
            hint="remove that file: the next worker makes another one",
        )
    return text


def _make(path: Path) -> None:
    """Gives the file its name when it is whole; one that is there already stays."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, _MODE)
            file.write(uuid.uuid4().hex + "\n")
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
