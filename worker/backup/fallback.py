"""How an export that failed is tried again: without what failed.

An attempt that fails through no fault of the VM or the NAS is made again in a simpler way:
everything is sent where bytes of the copy before were to be copied, and with `engine = "auto"`
VBoxManage exports what the parallel engine could not. So neither a fault of this engine nor a copy
before that has rotted can lose a backup.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from shared.host.errors import CopyError
from shared.ova.check import CheckStoppedError
from shared.virtualbox.export_errors import (
    ExportAbandonedError,
    ExportCanceledError,
    ExportError,
    ExportTargetError,
    HostFullError,
    VmBusyError,
    VmChangedError,
    VmRunsError,
)

_OF_THE_VM_OR_THE_NAS: Final = (
    VmRunsError,
    VmBusyError,
    VmChangedError,
    HostFullError,
    ExportCanceledError,
    ExportAbandonedError,
    ExportTargetError,
    CheckStoppedError,
)


@dataclass(frozen=True, slots=True)
class Fallback:
    """What an attempt does without, and why: the errors of the attempts before it.

    `no_delta`: nothing is copied from the copy before. `no_parallel`: the parallel engine is not
    used. Both empty: the first attempt.
    """

    no_delta: str = ""
    no_parallel: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """What may be left out if the export fails: `what` in words, and the attempt without it."""

    what: str
    fallback: Callable[[str], Fallback]


WITHOUT_DELTA: Final = Retry(
    "copying what the copy before holds", lambda error: Fallback(no_delta=error)
)
WITHOUT_PARALLEL: Final = Retry("the parallel engine", lambda error: Fallback(no_parallel=error))


class EngineFaultError(CopyError):
    """An export that failed, and may succeed as `fallback` says."""

    def __init__(self, message: str, hint: str, fallback: Fallback) -> None:
        super().__init__(message, hint=hint)
        self.fallback = fallback


@contextlib.contextmanager
def retried(retry: Retry | None) -> Iterator[None]:
    """Around the export and the check of its result.

    Raises `EngineFaultError` for a failure after which `retry` may help.
    """
    try:
        yield
    except (ExportError, CopyError) as error:
        if retry is None or isinstance(error, _OF_THE_VM_OR_THE_NAS):
            raise
        message = f"{retry.what} failed: {error.message}"
        raise EngineFaultError(message, error.hint, retry.fallback(message)) from error
