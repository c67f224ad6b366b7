"""Stands in for VBoxManage: `mediumio cat`, `export` and `showvminfo`, as the engine's commands behave.

How it behaves is in `behaviour.json` beside `VBoxManage`, the program that runs this file.
"""

import io
import json
import os
import signal
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path


def main(folder: Path, arguments: list[str]) -> int:
    behaviour = json.loads((folder / "behaviour.json").read_text())
    with (folder / "log").open("a") as log:
        log.write(f"{arguments[0]} {os.getpid()}\n")
    if error := behaviour.get("errors", {}).get(arguments[0]):
        sys.stderr.write(error)
        return 1
    if arguments[0] == "mediumio":
        return cat(folder / f"{arguments[1].removeprefix('--disk=')}.raw", behaviour)
    if arguments[0] == "export":
        return export(folder, Path(arguments[arguments.index("--output") + 1]), behaviour)
    locked = "mediumio" in (folder / "log").read_text()
    state = behaviour.get("state_when_locked" if locked else "state", "poweroff")
    sys.stdout.write(f'name="vm"\nUUID="{arguments[1]}"\nCfgFile="x"\nVMState="{state}"\n')
    return 0


def cat(disk: Path, behaviour: dict[str, object]) -> int:
    """Writes the disk; with `lost` 128 KiB of it, then ends as if all were well once somebody has read that."""
    if behaviour.get("mute"):
        time.sleep(30)
    data = disk.read_bytes()
    if behaviour.get("lost"):
        data = data[: 128 * 1024]
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return 0


def obey(canceled: Callable[..., None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, canceled)


def die_when_done(number: int) -> None:
    """As VBoxManage does when the signal comes just after all was done: it has ceased to handle it."""
    os.write(2, b"0%...100%\n")
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def export(folder: Path, target: Path, behaviour: dict[str, object]) -> int:
    """Writes the members in small steps, each size at its end; then a disk without end until it is terminated.

    It notes a cancel in the file `canceled`. With `late` seconds it does not handle signals before it writes the disk; with `done`
    everything is done just as the signal comes.
    """

    def canceled(number: int, *_: object) -> None:
        if behaviour.get("stubborn"):
            return
        if behaviour.get("done"):
            die_when_done(number)
        target.unlink()
        (folder / "canceled").touch()
        sys.stderr.write("0%...VBoxManage: error: Appliance write failed\nCANCELED\n")
        sys.exit(1)

    late = behaviour.get("late")
    if not late:
        obey(canceled)
    if behaviour.get("mute"):
        target.touch()
        time.sleep(30)
    with target.open("wb", buffering=0) as file:
        write_members(file, [folder / name for name in ("vm.ovf", "vm.nvram")])
        if not behaviour.get("diskless"):
            file.write(header("vm-disk001.vmdk", 0) + b"KDMV")
            if isinstance(late, float):
                time.sleep(late)
                obey(canceled)
            for _ in range(600):
                time.sleep(0.05)
        file.write(header("vm.mf", 1) + b"x".ljust(512, b"\0"))
    return 0


def write_members(file: io.FileIO, members: list[Path]) -> None:
    for member in filter(Path.exists, members):
        content = member.read_bytes()
        start = file.tell()
        file.write(header(member.name, 0) + content[:10])
        time.sleep(0.02)
        file.write(content[10:] + bytes(-len(content) % 512))
        os.pwrite(file.fileno(), header(member.name, len(content)), start)


def header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    stream = io.BytesIO()
    stream.write(info.tobuf(tarfile.USTAR_FORMAT))
    return stream.getvalue()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
