"""VBoxManage in words: runs it, decides whether it failed, and reads what it prints.

Measured on VirtualBox 7.2.22; `docs/virtualbox.md` has the facts. VMs are named by their UUID only: their names may hold quotes, line
breaks, and whole forged records.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from shared.clock import Clock, SystemClock
from shared.errors import VBoxManageError, VBoxManageTimeoutError
from shared.process import Completed, Runner

#: With C, or a locale that is not installed, `list vms` stops at the first name that is not ASCII, with status 0.
LOCALE: Final[Mapping[str, str]] = {"LC_ALL": "C.UTF-8"}

#: States in which no process runs the VM and its disks are at rest.
STOPPED: Final = frozenset({"poweroff", "saved", "aborted", "aborted-saved"})

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ERROR: Final = re.compile(r"VBoxManage(?:[.a-z]+)?: error: *(.*)")
_DETAILS: Final = re.compile(r"(?:Details: code|Context: )")
_LISTED: Final = re.compile(rf'^(.*)" \{{({_UUID.pattern})\}}$', re.MULTILINE)
_VERSION: Final = re.compile(r"^(\d+\.\d+\.\d+\S*)$", re.MULTILINE)
_NAME: Final = re.compile(r'^name="((?:[^"\\]|\\.)*)"', re.DOTALL | re.MULTILINE)
_MEDIUM: Final = re.compile(rf'^"(.+)-ImageUUID-(\d+)-(\d+)"="({_UUID.pattern})"$', re.MULTILINE)
_INACCESSIBLE: Final = '"<inaccessible>'

#: Seen just as a VM goes off, and while a VBoxSVC ends or begins. A read is worth repeating then, and only then.
_TRANSIENT: Final = (
    "The object is not ready",
    "The session is not locked",
    "unlocked unexpectedly while attempting to share its session",
    "already has a lock request pending",
    "Failed to create the VirtualBox object",
    "NS_ERROR_ABORT",
    "NS_ERROR_CALL_FAILED",
    "NS_ERROR_SOCKET_FAIL",
)
#: With pauses that double to two seconds: 9 seconds in all. A VBoxSVC on a busy machine may take that long to end.
_ATTEMPTS: Final = 9

_HINTS: Final = (
    ("Failed to create the VirtualBox object", "is VBoxSVC shutting down, or run by another user? Try `VBoxManage list vms` by hand"),
    ("E_ACCESSDENIED", "the VM is inaccessible: `VBoxManage list --long vms` says why"),
    ("Could not find a registered machine", "the VM was unregistered meanwhile, or belongs to another user of this host"),
    ("NS_ERROR_FILE_ACCESS_DENIED", "run as the user who owns the VMs"),
)


class TransientVBoxManageError(VBoxManageError):
    """VBoxManage failed in a way that passes by itself."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A record of `list vms`. `name` is None if VirtualBox calls the VM inaccessible (or if that is its name).

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
    """What `showvminfo` says. `changed` is UTC in whole seconds: fractions are lost when VBoxSVC restarts."""

    uuid: str
    name: str
    state: str
    changed: str
    settings_file: str
    snapshot: str
    session: str
    media: tuple[Medium, ...]

    @property
    def stopped(self) -> bool:
        """Whether it is off for certain. Starting, saving, merging and the like are not."""
        return self.state in STOPPED and not self.session


class VBoxManage:
    """VBoxManage of one host, run as the owner of the VMs.

    `environment` is added to the caller's (VBOX_USER_HOME, for one). Every method raises `VBoxManageError` if the program is missing,
    fails or complains, and `VBoxManageTimeoutError` if it takes longer than `timeout_seconds`. Reads are repeated on errors that pass.
    """

    def __init__(
        self,
        program: str,
        runner: Runner,
        timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.program = program
        self.environment: Mapping[str, str] = {**(environment or {}), **LOCALE}
        self._runner = runner
        self._timeout_seconds = timeout_seconds
        self.clock = clock or SystemClock()

    def version(self) -> str:
        """For example `7.2.22_Debianr175245`."""
        return _first(_VERSION, self.read("--version"), "a version")

    def warnings(self) -> tuple[str, ...]:
        """What the wrapper around VBoxManage complains about on stdout: usually that the kernel driver is not loaded."""
        paragraphs = re.split(r"\n\s*\n", _VERSION.sub("", self.read("--version")))
        return tuple(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())

    def list_vms(self) -> tuple[Listed, ...]:
        """All VMs of this user. A name with a line break can forge lines: believe a UUID only if the registry has it."""
        return parse_list(self.read("list", "vms"))

    def running(self) -> frozenset[str]:
        """UUIDs of the VMs that run or are paused. Names can forge lines here too."""
        return frozenset(listed.uuid for listed in parse_list(self.read("list", "runningvms")))

    def info(self, uuid: str) -> MachineInfo:
        """What VirtualBox knows of one VM at this moment."""
        return parse_info(self.read("showvminfo", _checked(uuid), "--machinereadable"))

    def medium_state(self, disk: str) -> str:
        """What is done with a disk (UUID or path): `created` is nothing, `locked write` is its running VM.

        `locked read` is an export, or that something that stands on it runs.
        """
        return _first(re.compile(r"^State: +(.+)$", re.MULTILINE), self.read("showmediuminfo", "disk", disk), "a medium state")

    def read(self, *arguments: str) -> str:
        """Runs a command that changes nothing and returns its stdout."""
        retrying = Retrying(
            retry=retry_if_exception_type(TransientVBoxManageError),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential(multiplier=0.1, max=2),
            sleep=self.clock.sleep,
            reraise=True,
        )
        return retrying(self.run, *arguments)

    def run(self, *arguments: str) -> str:
        """Runs a command once and returns its stdout."""
        return self.run_long(self._timeout_seconds, *arguments)

    def run_long(self, timeout_seconds: float, *arguments: str) -> str:
        """Runs a command once that may take longer than others, at most `timeout_seconds`."""
        words = " ".join(["VBoxManage", *arguments[:2]])
        try:
            completed = self._runner.run([self.program, *arguments], timeout_seconds=timeout_seconds, environment=self.environment)
        except OSError as error:
            raise cannot_start(self.program, error) from None
        if completed.timed_out:
            raise VBoxManageTimeoutError(
                f"{words} did not answer within {timeout_seconds:g} s",
                hint="VBoxSVC hangs or the machine is overloaded. Do not kill VBoxSVC while VMs run: it takes them along",
            )
        if failure := complaint(completed):
            kind = TransientVBoxManageError if any(text in failure for text in _TRANSIENT) else VBoxManageError
            raise kind(f"{words} failed: {failure}", hint=next((hint for text, hint in _HINTS if text in failure), ""))
        return completed.stdout


def cannot_start(program: str, error: OSError) -> VBoxManageError:
    """The error for a program that is not there or cannot be run."""
    return VBoxManageError(
        f"cannot start {program}: {error.strerror}",
        hint="install VirtualBox, or say where it is: virtualbox.vboxmanage, VMBACKUP_VBOXMANAGE",
    )


def error_lines(stderr: str) -> tuple[str, ...]:
    """The messages in what VBoxManage printed on stderr, without its prefix. They may follow progress on one line."""
    return tuple(match[1].strip() for match in _ERROR.finditer(stderr))


def complaint(completed: Completed) -> str:
    """Why a command failed, on one line; empty if it did not. Both its status and its stderr must be clean."""
    errors = error_lines(completed.stderr)
    if completed.status == 0 and not errors:
        return ""
    told = [line for line in errors if not _DETAILS.match(line)]
    codes = re.findall(r"code (\w+)", " ".join(line for line in errors if _DETAILS.match(line)))
    text = "; ".join(told) or (completed.stderr.strip() or completed.stdout.strip())[-500:] or "no message"
    return f"{text} ({', '.join([*dict.fromkeys(codes), f'status {completed.status}'])})"


def parse_list(stdout: str) -> tuple[Listed, ...]:
    """Reads `list vms` or `list runningvms`; lines that are no records (warnings, parts of names) are skipped."""
    records = _LISTED.findall(stdout)
    return tuple(Listed(uuid, None if line == _INACCESSIBLE else line.removeprefix('"')) for line, uuid in records)


def parse_info(stdout: str) -> MachineInfo:
    """Reads `showvminfo --machinereadable`.

    The first match of a key counts: names of snapshots come later, are not escaped, and can forge lines. The VM's own name comes
    first, but its quotes are escaped, so that no line of it looks like `key="value"`.
    """

    def value(key: str) -> str:
        match = re.search(rf'^{key}="([^"]*)"$', stdout, re.MULTILINE)
        return match[1] if match else ""

    name = _NAME.search(stdout)
    if not name or not _UUID.fullmatch(value("UUID")) or not value("VMState"):
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
    )


def _media(stdout: str) -> list[Medium]:
    found: dict[tuple[str, str, str], Medium] = {}
    for controller, port, device, uuid in _MEDIUM.findall(stdout):
        path = re.search(rf'^"{re.escape(controller)}-{port}-{device}"="(.*)"$', stdout, re.MULTILINE)
        found.setdefault((controller, port, device), Medium(uuid, path[1] if path else ""))
    return list(found.values())


def _first(pattern: re.Pattern[str], text: str, what: str) -> str:
    match = pattern.search(text)
    if not match:
        raise VBoxManageError(f"VBoxManage said {text.strip()[:200]!r} where {what} was expected")
    return match[1]


def _checked(uuid: str) -> str:
    if not _UUID.fullmatch(uuid):
        raise VBoxManageError(f"{uuid!r} is no UUID of a VM")
    return uuid
