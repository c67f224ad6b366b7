"""Every error an operator can meet, and the one registry of exit codes.

An error's class decides its exit code; its message says what happened; its `hint` says what to do
about it.
"""

from enum import IntEnum, unique
from typing import ClassVar, Final, Self


@unique
class ExitCode(IntEnum):
    """What a command's exit status means, each with the sentence that `--help` and documents show.

    A status that is not listed here means failure.
    """

    meaning: str

    def __new__(cls, value: int, meaning: str = "") -> Self:
        """Makes a member: an integer that knows its meaning."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    DONE = 0, "done; also: there was nothing to do"
    FAILURE = 1, "failed; the message says why"
    USAGE = 2, "the command line or the configuration is wrong"
    SOME_FAILED = 3, "some VMs failed; the others are done"
    SOME_DEFERRED = 4, "some VMs run and were left for a later tick"
    NO_DATABASE = 10, "there is no state database at that place"
    LOCKED = 11, "somebody alive holds what is needed; init: there is a database"
    LOCK_LOST = 12, "this process was displaced by another one"
    NAS = 13, "the NAS is not mounted, not the right one, full, or not writable"
    VBOXMANAGE = 14, "VBoxManage failed, hangs, or is not there"
    STATE_REFUSED = 15, "the state of the VM does not allow it"
    INTERRUPTED = 130, "interrupted from the keyboard"
    TERMINATED = 143, "terminated by a signal, or its terminal went away"


#: Longer than any sentence, and than what a configuration can have wrong. A name in a copy may have
#: megabytes, and what is said goes into the database, mail and logs.
_LONGEST: Final = 10_000


class VmBackupError(Exception):
    """Base of all errors that are meant to be read by an operator. The message is bounded."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
        super().__init__(self.message)
        self.hint = hint


class UsageError(VmBackupError):
    """The command line asks for something that cannot be."""

    exit_code = ExitCode.USAGE


class ConfigurationError(VmBackupError):
    """The configuration is wrong; the message lists every error, each with its key."""

    exit_code = ExitCode.USAGE


class NoDatabaseError(VmBackupError):
    """There is no state database in `$NAS_MOUNTPOINT/vmstate`."""

    exit_code = ExitCode.NO_DATABASE


class DatabaseVersionError(VmBackupError):
    """The state database is of a version that this program cannot use."""


class DatabaseDamagedError(VmBackupError):
    """The state database contradicts itself.

    A bad checksum, a broken chain, a history that went back.
    """


class InDoubtError(VmBackupError):
    """A transaction may or may not have been committed: the NAS went away in the middle of it."""


class LockedError(VmBackupError):
    """Somebody who is alive holds what the command needs."""

    exit_code = ExitCode.LOCKED


class TooManyExportsError(LockedError):
    """No slot for another export on the NAS: the limit is reached, or others have waited longer."""


class LockLostError(VmBackupError):
    """This process was displaced: another one took over its session or claim."""

    exit_code = ExitCode.LOCK_LOST


class NasError(VmBackupError):
    """The NAS is not mounted, foreign, full, read-only, or does not answer."""

    exit_code = ExitCode.NAS


class OtherRepositoryError(NasError):
    """The NAS holds another repository than this host knows there, or none."""


class NoGenerationError(NasError):
    """The state database has no generation that can be read, and did not get one by waiting."""


class VBoxManageError(VmBackupError):
    """VBoxManage failed, or said something that is no answer."""

    exit_code = ExitCode.VBOXMANAGE


class VBoxManageTimeoutError(VBoxManageError):
    """VBoxManage did not answer within its time limit."""


class IllegalMoveError(VmBackupError):
    """The state of the VM does not allow this move."""

    exit_code = ExitCode.STATE_REFUSED


class CopyError(VmBackupError):
    """A copy of a VM is damaged, incomplete, or could not be made."""


class NotInCopyError(CopyError):
    """What the command line names is not there: no copy of that stamp, no such disk or file."""

    exit_code = ExitCode.USAGE


class DiskImageError(VmBackupError):
    """A VM's disk image is damaged, or of a kind that this program does not read itself."""


class UnusableRecordError(VmBackupError):
    """The state database says something of a VM that cannot be, and must not be acted on."""


class NodeConflictError(VmBackupError):
    """Two machines use one host name."""


class UnknownVmError(VmBackupError):
    """The state database knows no VM of that name."""

    exit_code = ExitCode.USAGE
