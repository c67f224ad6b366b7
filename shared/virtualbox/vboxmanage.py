"""VBoxManage in words: runs it, decides whether it failed, and repeats what is worth repeating.

Measured on VirtualBox 7.2.22; `docs/virtualbox.md` has the facts. VMs are named by their UUID only:
their names may hold quotes, line breaks, and whole forged records.
"""

import re
from collections.abc import Mapping
from typing import Final

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from shared.host.clock import Clock, SystemClock
from shared.host.errors import VBoxManageError, VBoxManageTimeoutError
from shared.host.processes import Runner
from shared.host.waits import pausing, waiting
from shared.virtualbox.vboxmanage_output import (
    UUID,
    Listed,
    MachineInfo,
    complaint,
    first_match,
    parse_info,
    parse_list,
)

#: With C, or a locale that is not installed, `list vms` stops at the first name that is not ASCII,
#: with status 0.
LOCALE: Final[Mapping[str, str]] = {"LC_ALL": "C.UTF-8"}

_VERSION: Final = re.compile(r"^(\d+\.\d+\.\d+\S*)$", re.MULTILINE)

#: Said when VBoxSVC just ends, or the machine is very busy. Nothing was done then: whatever the
#: command, it is worth repeating.
UNREACHED: Final = "Failed to create the VirtualBox object"
#: Seen just as a VM goes off, and while a VBoxSVC ends. A read is worth repeating then, and only
#: then.
_TRANSIENT: Final = (
    "The object is not ready",
    "The session is not locked",
    "unlocked unexpectedly while attempting to share its session",
    "Failed to assign the machine to the session",
    "already has a lock request pending",
    "NS_ERROR_ABORT",
    "NS_ERROR_CALL_FAILED",
    "NS_ERROR_SOCKET_FAIL",
)
#: With pauses that double to two seconds. A VBoxSVC on a busy machine may take all of them to end.
_ATTEMPTS: Final = 9
_PAUSES_SECONDS: Final = 9.0

#: What VirtualBox writes at least in a second, on a busy disk.
_SLOWEST_BYTES: Final = 10 * 2**20
#: How long it may take to begin and to end that, on a busy machine.
_WORK_SECONDS: Final = 3600.0

_HINTS: Final = (
    (
        UNREACHED,
        "is VBoxSVC shutting down, or run by another user? Try `VBoxManage list vms` by hand",
    ),
    ("E_ACCESSDENIED", "the VM is inaccessible: `VBoxManage list --long vms` says why"),
    (
        "Could not find a registered machine",
        "the VM was unregistered meanwhile, or belongs to another user of this host",
    ),
    ("NS_ERROR_FILE_ACCESS_DENIED", "run as the user who owns the VMs"),
)


class TransientVBoxManageError(VBoxManageError):
    """VBoxManage failed in a way that passes by itself."""


class UnreachedVBoxManageError(TransientVBoxManageError):
    """VBoxManage did not reach VBoxSVC, and so has done nothing."""


class VBoxManage:
    """VBoxManage of one host, run as the owner of the VMs.

    `environment` is added to the caller's (VBOX_USER_HOME, for one). Every method raises
    `VBoxManageError` if the program is missing, fails or complains, and `VBoxManageTimeoutError` if
    it takes longer than `timeout_seconds`. Reads are repeated on errors that pass, everything else
    only while VBoxSVC is not reached. Quick questions are run by `asking`, if that is given.
    """

    def __init__(
        self,
        program: str,
        runner: Runner,
        timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        asking: Runner | None = None,
    ) -> None:
        self.program = program
        self.environment: Mapping[str, str] = {**(environment or {}), **LOCALE}
        self._runner, self._asking = runner, asking or runner
        self._timeout_seconds = timeout_seconds
        self.clock = clock or SystemClock()

    def version(self) -> str:
        """For example `7.2.22_Debianr175245`."""
        return first_match(_VERSION, self._ask("--version"), "a version")

    def warnings(self) -> tuple[str, ...]:
        """What the wrapper around VBoxManage complains about on stdout.

        Usually that the kernel driver is not loaded.
        """
        paragraphs = re.split(r"\n\s*\n", _VERSION.sub("", self._ask("--version")))
        return tuple(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())

    def list_vms(self) -> tuple[Listed, ...]:
        """All VMs of this user.

        A name with a line break can forge lines: believe a UUID only if the registry has it.
        """
        return parse_list(self._ask("list", "vms"))

    def running(self) -> frozenset[str]:
        """UUIDs of the VMs that run or are paused. Names can forge lines here too."""
        return frozenset(listed.uuid for listed in parse_list(self._ask("list", "runningvms")))

    def info(self, uuid: str) -> MachineInfo:
        """What VirtualBox knows of one VM at this moment."""
        return parse_info(self._ask("showvminfo", _checked(uuid), "--machinereadable"))

    def medium_state(self, disk: str) -> str:
        """What is done with a disk (UUID or path).

        `created` is nothing, `locked write` is its running VM.

        `locked read` is an export, or that something that stands on it runs.
        """
        return first_match(
            re.compile(r"^State: +(.+)$", re.MULTILINE),
            self._ask("showmediuminfo", "disk", disk),
            "a medium state",
        )

    def _ask(self, *arguments: str) -> str:
        """Runs a command that changes nothing, and takes a moment, and returns its stdout."""
        return self._repeated(
            TransientVBoxManageError, self._timeout_seconds, *arguments, runner=self._asking
        )

    def read(self, *arguments: str) -> str:
        """Runs a command that changes nothing and returns its stdout."""
        return self._repeated(TransientVBoxManageError, self._timeout_seconds, *arguments)

    def run(self, *arguments: str) -> str:
        """Runs a command once and returns its stdout."""
        return self.run_long(self._timeout_seconds, *arguments)

    def run_long(self, timeout_seconds: float, *arguments: str) -> str:
        """Runs a command once that may take longer than others, at most `timeout_seconds`."""
        return self._repeated(UnreachedVBoxManageError, timeout_seconds, *arguments)

    def reach(self) -> None:
        """Returns when VBoxSVC responds; waits for one that is just ending, or slow to begin."""
        self.running()

    def _repeated(
        self,
        error: type[VBoxManageError],
        seconds: float,
        *arguments: str,
        runner: Runner | None = None,
    ) -> str:
        """Runs a command, again on such an error, each time at most for so many seconds."""
        retrying = Retrying(
            retry=retry_if_exception_type(error),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential(multiplier=0.1, max=2),
            sleep=pausing(self.clock.sleep, "VBoxSVC, which does not answer yet", _PAUSES_SECONDS),
            reraise=True,
        )
        return retrying(self._once, seconds, *arguments, runner=runner)

    def _once(self, timeout_seconds: float, *arguments: str, runner: Runner | None = None) -> str:
        words = " ".join(["VBoxManage", *arguments[:2]])
        asked = " ".join(["VBoxManage", *filter(str.isalpha, arguments[:3])])
        try:
            with waiting(asked, timeout_seconds):
                completed = (runner or self._runner).run(
                    [self.program, *arguments],
                    timeout_seconds=timeout_seconds,
                    environment=self.environment,
                )
        except OSError as error:
            raise cannot_start(self.program, error) from None
        if completed.timed_out:
            raise VBoxManageTimeoutError(
                f"{words} did not answer within {timeout_seconds:g} s",
                hint=(
                    "VBoxSVC hangs or the machine is overloaded. Do not kill VBoxSVC while VMs "
                    "run: it takes them along"
                ),
            )
        if failure := complaint(completed):
            raise _kind(failure)(
                f"{words} failed: {failure}",
                hint=next((hint for text, hint in _HINTS if text in failure), ""),
            )
        return completed.stdout


def work_seconds(count: int = 0) -> float:
    """How long a command may take that reads or writes so many bytes of memory or disks."""
    return _WORK_SECONDS + count / _SLOWEST_BYTES


def _kind(failure: str) -> type[VBoxManageError]:
    if UNREACHED in failure:
        return UnreachedVBoxManageError
    return (
        TransientVBoxManageError if any(text in failure for text in _TRANSIENT) else VBoxManageError
    )


def cannot_start(program: str, error: OSError) -> VBoxManageError:
    """The error for a program that is not there or cannot be run."""
    return VBoxManageError(
        f"cannot start {program}: {error.strerror}",
        hint="install VirtualBox, or say where it is: virtualbox.vboxmanage, VMBACKUP_VBOXMANAGE",
    )


def _checked(uuid: str) -> str:
    if not UUID.fullmatch(uuid):
        raise VBoxManageError(f"{uuid!r} is no UUID of a VM")
    return uuid
