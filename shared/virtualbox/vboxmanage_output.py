"""What VBoxManage prints, read: lists of VMs, what it knows of one, complaints.

Measured on VirtualBox 7.2.22; `docs/virtualbox.md` has the facts. Names of VMs may hold quotes,
line breaks, and whole forged records.
"""

import re
import signal
from dataclasses import dataclass
from typing import Final

from shared.host.errors import VBoxManageError
from shared.host.processes import Completed

#: States in which no process runs the VM and its disks are at rest.
STOPPED: Final = frozenset({"poweroff", "saved", "aborted", "aborted-saved"})

UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: A shell around VBoxManage adds this to the number of the signal.
_SHELL_ADDS: Final = 128
_ERROR: Final = re.compile(r"VBoxManage(?:[.a-z]+)?: error: *(.*)")
_DETAILS: Final = re.compile(r"(?:Details: code|Context: )")
_LISTED: Final = re.compile(rf'^(.*)" \{{({UUID.pattern})\}}$', re.MULTILINE)
_NAME: Final = re.compile(r'^name="((?:[^"\\]|\\.)*)"', re.DOTALL | re.MULTILINE)
_MEDIUM: Final = re.compile(rf'^"(.+)-ImageUUID-(\d+)-(\d+)"="({UUID.pattern})"$', re.MULTILINE)
_CABLE: Final = re.compile(r'^cableconnected(\d{1,2})="(on|off)"$', re.MULTILINE)
_MEMORY: Final = re.compile(r"^memory=(\d{1,9})$", re.MULTILINE)
_INACCESSIBLE: Final = '"<inaccessible>'


@dataclass(frozen=True, slots=True)
class Listed:
    """A record of `list vms`.

    `name` is None if VirtualBox calls the VM inaccessible (or if that is its name).

    Of a name with line breaks it is the last line: the list does not tell where such a name begins.
    """

    uuid: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Medium:
    """What is attached to a VM."""

    uuid: str
    path: str


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """What `showvminfo` says.

    `changed` is UTC in whole seconds: fractions are lost when VBoxSVC restarts. `moment` has them.
    """

    uuid: str
    name: str
    state: str
    changed: str
    settings_file: str
    snapshot: str
    session: str
    media: tuple[Medium, ...]
    #: Bytes; 0 if it is not said.
    memory: int = 0
    moment: str = ""
    #: The numbers of its network cards whose cable is plugged in, and of the others.
    plugged: tuple[int, ...] = ()
    unplugged: tuple[int, ...] = ()

    @property
    def stopped(self) -> bool:
        """Whether it is off for certain. Starting, saving, merging and the like are not."""
        return self.state in STOPPED and not self.session


def error_lines(stderr: str) -> tuple[str, ...]:
    """The messages in what VBoxManage printed on stderr, without its prefix.

    They may follow progress on one line.
    """
    return tuple(match[1].strip() for match in _ERROR.finditer(stderr))


def complaint(completed: Completed) -> str:
    """Why a command failed, on one line; empty if it did not.

    Both its status and its stderr must be clean.
    """
    errors = error_lines(completed.stderr)
    if completed.status == 0 and not errors:
        return ""
    told = [line for line in errors if not _DETAILS.match(line)]
    codes = re.findall(r"code (\w+)", " ".join(line for line in errors if _DETAILS.match(line)))
    text = (
        "; ".join(told)
        or (completed.stderr.strip() or completed.stdout.strip())[-500:]
        or "no message"
    )
    return f"{text} ({', '.join([*dict.fromkeys(codes), how_it_ended(completed.status)])})"


def how_it_ended(status: int) -> str:
    """`status 1`, or which signal killed it."""
    number = killed_by(status)
    if not number:
        return f"status {status}"
    known = number in {member.value for member in signal.Signals}
    return f"killed by signal {number}" + (f", {signal.Signals(number).name}" if known else "")


def killed_by(status: int) -> int:
    """The signal that ended a command, also one with a shell around it; 0 if none did."""
    return -status if status < 0 else max(0, status - _SHELL_ADDS)


def parse_list(stdout: str) -> tuple[Listed, ...]:
    """Reads `list vms` or `list runningvms`.

    Lines that are no records (warnings, parts of names) are skipped.
    """
    records = _LISTED.findall(stdout)
    return tuple(
        Listed(uuid, None if line == _INACCESSIBLE else line.removeprefix('"'))
        for line, uuid in records
    )


def parse_info(stdout: str) -> MachineInfo:
    """Reads `showvminfo --machinereadable`.

    The first match of a key counts: names of snapshots come later, are not escaped, and can forge
    lines. The VM's own name comes first, but its quotes are escaped, so that no line of it looks
    like `key="value"`.
    """

    def value(key: str) -> str:
        match = re.search(rf'^{key}="([^"]*)"$', stdout, re.MULTILINE)
        return match[1] if match else ""

    name = _NAME.search(stdout)
    if not name or not UUID.fullmatch(value("UUID")) or not value("VMState"):
        raise VBoxManageError("VBoxManage showvminfo gave no UUID and state: " + repr(stdout[:200]))
    return MachineInfo(
        uuid=value("UUID"),
        name=re.sub(r"\\(.)", r"\1", name[1], flags=re.DOTALL),
        state=value("VMState"),
        changed=value("VMStateChangeTime").partition(".")[0],
        settings_file=value("CfgFile"),
        snapshot=value("CurrentSnapshotUUID"),
        session=value("SessionName"),
        media=tuple(_media(stdout)),
        memory=int(memory[1]) << 20 if (memory := _MEMORY.search(stdout)) else 0,
        moment=value("VMStateChangeTime"),
        plugged=_cards(stdout, "on"),
        unplugged=_cards(stdout, "off"),
    )


def _cards(stdout: str, cable: str) -> tuple[int, ...]:
    """The numbers of the network cards whose cable is like that."""
    found: dict[str, str] = {}
    for number, said in _CABLE.findall(stdout):
        found.setdefault(number, said)
    return tuple(int(number) for number, said in found.items() if said == cable)


def _media(stdout: str) -> list[Medium]:
    found: dict[tuple[str, str, str], Medium] = {}
    for controller, port, device, uuid in _MEDIUM.findall(stdout):
        path = re.search(
            rf'^"{re.escape(controller)}-{port}-{device}"="(.*)"$', stdout, re.MULTILINE
        )
        found.setdefault((controller, port, device), Medium(uuid, path[1] if path else ""))
    return list(found.values())


def first_match(pattern: re.Pattern[str], text: str, what: str) -> str:
    """The first group of the first match.

    Raises `VBoxManageError` if there is none; `what` was expected.
    """
    match = pattern.search(text)
    if not match:
        raise VBoxManageError(f"VBoxManage said {text.strip()[:200]!r} where {what} was expected")
    return match[1]
