"""Waiting while somebody who only looks at a VM holds it: a GUI, a session that is just ending."""

from collections.abc import Callable
from typing import Final, TypeVar

from shared.host.clock import Clock
from shared.host.errors import VBoxManageError
from shared.host.waits import pausing

_LOCKED: Final = (
    "is already locked",
    "while it is locked",
    "unlocked unexpectedly",
    "lock request pending",
)
_LOCKED_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 1.0

_Answer = TypeVar("_Answer")


def is_locked(error: VBoxManageError) -> bool:
    """Whether VirtualBox refuses only because somebody holds the VM."""
    return any(text in error.message for text in _LOCKED)


def patiently(clock: Clock, ask: Callable[[], _Answer]) -> _Answer:
    """Asks VirtualBox, again for a bounded time while the VM is locked. Raises what `ask` does."""
    end = clock.monotonic() + _LOCKED_SECONDS
    pause = pausing(clock.sleep, "whoever looks at the VM in VirtualBox", _LOCKED_SECONDS)
    while True:
        try:
            return ask()
        except VBoxManageError as error:
            if not is_locked(error) or clock.monotonic() >= end:
                raise
            pause(_POLL_SECONDS)
