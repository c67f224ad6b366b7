"""Stands in for VBoxManage.

`mediumio cat`, `export` and `showvminfo`, as the engine's commands behave.

How it behaves is in `behaviour.json` beside `VBoxManage`, the program that runs this file. With
`ending` VBoxSVC is just ending: the first lock is refused.
"""

import json
import os
import sys
import time
from pathlib import Path

REFUSED = "VBoxManage: error: RTVfsFsStrmPushFile failed for '{}' (VERR_ALREADY_EXISTS)"


def main(folder: Path, arguments: list[str]) -> int:
    behaviour = json.loads((folder / "behaviour.json").read_text())
    with (folder / "log").open("a") as log:
        log.write(f"{arguments[0]} {os.getpid()}\n")
    if error := behaviour.get("errors", {}).get(arguments[0]):
        sys.stderr.write(error)
        return 1
    if arguments[0] == "mediumio":
        if behaviour.get("ending") and (folder / "log").read_text().count("mediumio") == 1:
            sys.stderr.write("VBoxManage: error: Failed to create the VirtualBox object!\n")
            return 1
        return cat(folder, arguments[1:], behaviour)
    if arguments[0] == "export":
        return export(folder, Path(arguments[arguments.index("--output") + 1]), behaviour)
    locked = "mediumio" in (folder / "log").read_text()
    state = behaviour.get("state_when_locked" if locked else "state", "poweroff")
    sys.stdout.write(f'name="vm"\nUUID="{arguments[1]}"\nCfgFile="x"\nVMState="{state}"\n')
    return 0


def cat(folder: Path, arguments: list[str], behaviour: dict[str, object]) -> int:
    """Writes the disk, or the part that is asked for.

    With `lost` 128 KiB of it, then it ends as if all were well once somebody has read that.
    """
    if behaviour.get("mute"):
        time.sleep(30)
    words = dict(word.removeprefix("--").split("=") for word in arguments if "=" in word)
    data = (folder / f"{words['disk']}.raw").read_bytes()[int(words.get("offset", "0")) :]
    data = data[: int(words.get("size", len(data)))]
    if behaviour.get("lost"):
        data = data[: 128 * 1024]
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return 0


def export(folder: Path, target: Path, behaviour: dict[str, object]) -> int:
    """Writes the .ovf and what is beside it, then the disks, each unless something of its name is
    there; a disk has no end.

    Then it removes what it wrote. With `mute` it writes nothing, for ever; with `called` all is
    called so.
    """
    if behaviour.get("mute"):
        time.sleep(30)
    called = behaviour.get("called", "vm")
    for name in ("vm.ovf", "vm.nvram"):
        if (folder / name).exists():
            beside = target if name.endswith(".ovf") else Path(f"{target.parent}/{called}.nvram")
            beside.write_bytes((folder / name).read_bytes())
    if behaviour.get("diskless"):
        return 0
    disk = f"{called}-disk001.vmdk"
    if os.path.lexists(f"{target.parent}/{disk}"):
        time.sleep(0.05)
        for beside in (Path(f"{target.parent}/{called}.nvram"), target):
            beside.unlink(missing_ok=True)
        sys.stderr.write(
            f"0%...VBOX_E_IPRT_ERROR\nVBoxManage: error: Appliance write "
            f"failed\n{REFUSED.format(disk)}\n"
        )
        return 1
    with (target.parent / disk).open("wb", buffering=0) as file:
        for _ in range(600):
            file.write(b"KDMV")
            time.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
