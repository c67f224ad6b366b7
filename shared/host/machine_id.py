"""What a machine is known by: the system's machine id.

Where there is none (containers), one of our own in the state directory.
"""

import contextlib
import os
import re
import secrets
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from shared.host.errors import ConfigurationError
from shared.host.kernel import Ask

_FILES: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_OWN: Final = "machine-id"
_PATTERN: Final = re.compile(r"[0-9a-f]{32}")
#: Other users of the machine may read it: it is no secret, and they are on the same machine.
_MODE: Final = 0o644


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
    text = path.read_text(encoding="ascii", errors="replace").strip()
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
