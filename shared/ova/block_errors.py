"""Why a part of a disk in a copy is not read: an error for callers of files, too, never zeros."""

import errno

from shared.host.errors import CopyError, NasError
from shared.nas.nas_errors import nas_error


class DamagedBlockError(CopyError, OSError):
    """A part of a disk in a copy is not what it should be. For callers of files: EIO."""

    def __init__(self, message: str) -> None:
        CopyError.__init__(
            self, message, hint="`vmbackup-admin verify VM` tells whether the copy is damaged"
        )
        self.errno, self.strerror = errno.EIO, message


class UnreadBlockError(NasError, OSError):
    """A part of a disk in a copy cannot be read now: the NAS says so. For callers of files: EIO."""

    def __init__(self, error: OSError, what: str) -> None:
        told = nas_error(error, f"read {what}")
        NasError.__init__(self, told.message, hint=told.hint)
        self.errno, self.strerror = errno.EIO, told.message
