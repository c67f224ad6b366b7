"""What to do about a VM that runs from a copy and does not get on, in the state that it is in.

Where several commands are needed, the first one is that with which to begin.
"""

from collections.abc import Mapping
from typing import Final

from shared.host.printable import option, printable, quoted
from shared.state.sessions.host_look import Stuck

#: What is said of one whose disks need no server, and that is no ordinary VM yet.
UNMERGED: Final = "but what its guest wrote is in a snapshot that is not merged yet"
#: What is said of one that its user has deleted.
UNLISTED: Final = "VirtualBox does not list it any more, and its copy stays until it is discarded"
_UNSERVED: Final = "nothing serves its disks"
_ON: Final = ", though it is on"
_WORDS: Final[Mapping[str, str]] = {
    "unserved": _UNSERVED,
    "unserved_on": _UNSERVED + _ON,
    "unmerged": "it needs that no more, " + UNMERGED,
    "unmerged_on": "it needs that no more, " + UNMERGED + ", as it is on",
    "unlisted": UNLISTED,
    "unnoted": "its host has no note of it that can be read",
    "unread": "VirtualBox has paused it, as its guest asked for what could not be read",
    "room": "its disks are not filled, for want of room",
}


def words(stuck: Stuck) -> str:
    """Why it does not get on."""
    said, known = printable(stuck.said), _WORDS.get(stuck.why, "")
    return f"{known} ({said})" if known and said else known or said or "does not get on"


def going_on(name: str, vm: str) -> str:
    """The command that goes on with the VM `name`, which runs from a copy of `vm`."""
    renamed = f" {option('--as', name)}" if name != vm else ""
    return f"vmbackup-admin boot {quoted(vm)}{renamed}"


def finish(name: str) -> str:
    """The command that makes an ordinary VM of it, or waits until one can be made."""
    return f"vmbackup-admin boot {option('--finish', name)}"


def when_off(name: str) -> str:
    """What makes an ordinary VM of one that may be on."""
    return f"shut it down, then: {finish(name)}"


def discard(name: str) -> str:
    """The command that throws it away; it asks first."""
    return f"vmbackup-admin boot {option('--discard', name)}"


def remedy(stuck: Stuck, name: str, uuid: str, vm: str) -> str:
    """What helps; `uuid` is that of the VM `name`, empty if it is not known."""
    if stuck.why == "unread":
        return going_on(name, vm)
    if stuck.why in ("room", "unnoted"):
        return "vmbackup-admin doctor"
    if stuck.why == "unlisted":
        return discard(name)
    if stuck.why == "stopped" and stuck.pid:
        return f"kill -CONT {stuck.pid}"
    if stuck.why == "unmerged_on":
        return when_off(name)
    switch = f"VBoxManage controlvm {quoted(uuid or name)}"
    steps = [f"kill -KILL {stuck.pid}"] if stuck.why.startswith("silent") and stuck.pid else []
    if stuck.why in ("unserved_on", "silent_on"):  # else what is asked for is refused
        steps.append(f"{switch} poweroff")
    return " && ".join([*steps, finish(name)])
