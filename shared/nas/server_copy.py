"""What a NAS does when bytes are copied between its files: measured, and remembered on this host.

Over NFS 4.2 and SMB a server can copy by itself, and a file system can share blocks between files.
Where a server cannot, the kernel may have the bytes come here and go back without a word. So no
name of a file system is believed. `server_copy_probe` measures in a process of its own, which may
hang, be killed, or find the NAS full: then nothing is known, which is an error of nobody.
"""

import logging
import platform
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from shared.host import documents
from shared.host.clock import Clock, is_over, timestamp
from shared.host.configuration import Nas
from shared.host.documents import Document
from shared.host.errors import ConfigurationError
from shared.host.notes import Note
from shared.host.processes import Runner, SubprocessRunner
from shared.nas.mount import NETWORK, Mount, NasStatus
from shared.nas.writing import WRITE_TEST

log: Final = logging.getLogger(__name__)

_PROBE: Final = str(Path(__file__).with_name("server_copy_probe.py"))
#: A server may be replaced by another one behind the same name.
_REMEMBERED_SECONDS: Final = 30 * 86400
#: What the probe writes at most, and what it leaves free besides `nas.reserve`.
_ROOM: Final = 64 * 2**20
_NOT_MEASURED: Final = "not measured yet"


@dataclass(frozen=True, slots=True)
class ServerCopy(Document):
    """What was measured at `time`. `copies`: whether the file system copies by itself.

    `shares`: whether copies share their blocks; None: that is not known. `reason` says in words
    why it does not copy.
    """

    time: str
    copies: bool
    shares: bool | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a mount: `found`, or why nothing is."""

    found: ServerCopy | None
    unknown: str = _NOT_MEASURED

    def aligned(self, reflink: bool | Literal["auto"]) -> bool:  # noqa: FBT001 - the setting
        """Whether copies are laid out so that blocks can be shared (`nas.reflink`)."""
        if reflink == "auto":
            return self.found is not None and self.found.shares is True
        return reflink

    def refusal(self, mount: Mount | None, reflink: bool | Literal["auto"]) -> str:  # noqa: FBT001 - the setting
        """Why bytes of one file had better be sent once more than be copied into another.

        Empty if it is better to copy them: over the network where the server copies, on a local
        disk where blocks are shared, and wanted to be.
        """
        kind = f"the NAS, mounted as {mount.filesystem}" if mount else "the NAS"
        if self.found is None:
            return f"it is not known whether {kind}, copies by itself: {self.unknown}"
        if not self.found.copies:
            return f"{kind}, cannot take unchanged data from the copy before: {self.found.reason}"
        if (mount is None or mount.filesystem not in NETWORK) and reflink is False:
            return f"{kind}, is a local disk, and nas.reflink = false"
        return ""


def look_up(
    nas: Nas,
    status: NasStatus,
    state_directory: Path,
    clock: Clock,
    runner: Runner | None = None,
) -> Answer:
    """What this host remembers of the mount; else it is measured now, within `nas.probe_seconds`.

    Never raises: what cannot be found out is not known, and asked again the next time.
    """
    try:
        noted = _note(state_directory).read().get(mount_key(status.mount))
        found = ServerCopy.from_json(noted)
    except (ConfigurationError, ValueError):
        found = None
    if found is not None and not is_over(clock.now(), found.time, _REMEMBERED_SECONDS):
        return Answer(found)
    return measure(nas, status, nas.state, state_directory, clock, runner)


def measure(
    nas: Nas,
    status: NasStatus,
    directory: Path,
    state_directory: Path,
    clock: Clock,
    runner: Runner | None = None,
) -> Answer:
    """Measures with files of our own in `directory` on the NAS, and remembers what was found.

    Takes less than a second and 24 MiB, at most `nas.probe_seconds`. A process that is killed may
    leave the files, which the `database` worker sweeps after a day. Never raises.
    """
    if status.read_only or status.free < nas.reserve + _ROOM:
        return Answer(None, "it is read-only" if status.read_only else "it has no room to try it")
    words = _ask(nas, status.mount, directory, runner or SubprocessRunner())
    copies, shares, reason = words
    if copies not in ("copies", "sends"):
        return Answer(None, reason)
    known = {"shares": True, "apart": False}
    found = ServerCopy(timestamp(clock.now()), copies == "copies", known.get(shares), reason)
    _remember(state_directory, status.mount, found, clock)
    return Answer(found)


def _ask(nas: Nas, mount: Mount | None, directory: Path, runner: Runner) -> tuple[str, str, str]:
    """The three words of the probe."""
    if platform.system() != "Linux":
        return "sends", "apart", "this system cannot copy between files"
    kind = "local"
    if mount is not None and mount.filesystem in NETWORK:
        kind = "nfs" if mount.filesystem.startswith("nfs") else "cifs"
    name = f"{WRITE_TEST}.{secrets.token_hex(6)}"
    place = mount.path if mount else ""
    arguments = [sys.executable, "-I", "-S", _PROBE, kind, place, str(directory), name]
    try:
        completed = runner.run(arguments, timeout_seconds=nas.probe_seconds)
    except OSError as error:
        return "unknown", "unknown", f"the probe cannot be started ({error.strerror})"
    if completed.timed_out:
        return "unknown", "unknown", f"the NAS did not answer within {nas.probe_seconds:g} seconds"
    words = completed.stdout.split("\t")
    if completed.status != 0 or len(words) != 3:
        return "unknown", "unknown", "the probe ended without an answer"
    return words[0], words[1], words[2]


def _note(state_directory: Path) -> Note:
    return Note(state_directory / "server-copies.json", "what the NAS copies by itself")


def mount_key(mount: Mount | None) -> str:
    """What a measurement is true of: this way to this server, by this kernel."""
    if mount is None:
        return f"kernel {platform.release()}"
    versions = [option for option in mount.options if option.startswith(("vers=", "cache="))]
    words = [mount.filesystem, mount.source, mount.path, *versions, f"kernel {platform.release()}"]
    return " ".join(words)


def _remember(state_directory: Path, mount: Mount | None, found: ServerCopy, clock: Clock) -> None:
    try:
        note = _note(state_directory)
        kept = {key: row for key, row in note.read().items() if _is_young(row, clock)}
        note.write({**kept, mount_key(mount): found.to_json()})
    except ConfigurationError as error:
        log.info("what the NAS copies by itself is measured anew: %s", error.message)


def _is_young(row: object, clock: Clock) -> bool:
    try:
        moment = documents.read(dict[str, object], row).get("time")
    except ValueError:
        return False
    return isinstance(moment, str) and not is_over(clock.now(), moment, _REMEMBERED_SECONDS)
