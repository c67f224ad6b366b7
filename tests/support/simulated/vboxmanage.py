"""The program: `vboxmanage.py VBOX_USER_HOME COMMAND…` is VBoxManage of the host with that home.

It runs in Python's isolated mode without site packages and imports only what the command needs:
tests call it thousands of times.
"""

import os
import sys
import time
from importlib import import_module

sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "..")))

from tests.support.simulated.errors import BANNER, Reply, VBoxError
from tests.support.simulated.faults import Faults
from tests.support.simulated.state import opened

VERSION = "7.2.22_Debianr175245"
_WARNING = """WARNING: The character device /dev/vboxdrv does not exist.
\t Please install the virtualbox-dkms package and the appropriate
\t headers, most likely linux-headers-cloud-amd64.

\t You will not be able to start VMs until this problem is fixed.
"""
#: command -> module, function in it, whether it changes the state
_COMMANDS = {
    "list": ("information", "list_command", False),
    "showvminfo": ("information", "show_command", False),
    "showmediuminfo": ("media", "show_command", False),
    "getextradata": ("machines", "get_extra_command", False),
    "createvm": ("machines", "create_command", True),
    "registervm": ("machines", "register_command", True),
    "unregistervm": ("machines", "unregister_command", True),
    "modifyvm": ("machines", "modify_command", True),
    "setextradata": ("machines", "set_extra_command", True),
    "storagectl": ("media", "controller_command", True),
    "storageattach": ("media", "attach_command", True),
    "createmedium": ("media", "create_command", True),
    "closemedium": ("media", "close_command", True),
    "startvm": ("power", "start_command", True),
    "controlvm": ("power", "control_command", True),
    "guestproperty": ("power", "property_command", False),
    "discardstate": ("power", "discard_command", True),
    "snapshot": ("snapshots", "command", True),
    "clonevm": ("snapshots", "clone_command", True),
    "import": ("imports", "command", True),
}


def main(home: str, words: list[str]) -> int:
    """Runs one command; its exit status."""
    try:
        reply = _run(home, words)
    except VBoxError as error:
        error.show()
        return error.status
    sys.stderr.write(reply.stderr)
    sys.stdout.write(reply.stdout)
    sys.stdout.flush()
    return 0


def _run(home: str, words: list[str]) -> Reply:
    faults = Faults(home)
    time.sleep(faults.host.hang_seconds)
    if faults.host.warning_lines:
        sys.stdout.write(_WARNING)
    if words in (["--version"], ["-V"]):
        return Reply(f"{VERSION}\n")
    name = words[0] if words else ""
    if name not in {*_COMMANDS, "export", "mediumio"}:
        sys.stderr.write(BANNER)
        raise VBoxError(f"Invalid command '{name}'", status=2)
    if faults.take("refused"):
        raise VBoxError(
            "Failed to create the VirtualBox object!",
            code="NS_ERROR_ABORT",
            component="VirtualBoxClientWrap",
        )
    if name == "export":
        return _export(home, words[1:], faults)
    if name == "mediumio":
        return _cat(home, words[1:])
    module, function, changes = _COMMANDS[name]
    command = getattr(import_module(f"tests.support.simulated.{module}"), function)
    extra = (faults,) if name in ("showvminfo", "import") else ()
    with opened(home, changes=changes) as host:
        reply: Reply = command(host, words[1:], *extra)
        return reply


def _export(home: str, words: list[str], faults: Faults) -> Reply:
    from tests.support.simulated import appliance

    with opened(home, changes=True) as host:
        started = appliance.begin(host, words, faults)
    return appliance.follow(started)


def _cat(home: str, words: list[str]) -> Reply:
    """Holds the read lock of the disk and of what it is based on for as long as it writes."""
    from tests.support.simulated import media
    from tests.support.simulated.state import reading

    with opened(home, changes=False) as host:
        prepared = media.prepare_cat(host, words)
        record = reading(home, [medium.uuid for medium in prepared.chain], prepared.output)
    with record:
        return media.cat(prepared)


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    sys.exit(main(sys.argv[1], sys.argv[2:]))
