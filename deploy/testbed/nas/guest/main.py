"""The guest after its root is there.

Mounts what a Linux system needs, then becomes what its configuration says.
"""

import os
import shutil
import subprocess
import threading
from pathlib import Path

from deploy.testbed.nas.configuration import Machine
from deploy.testbed.nas.guest import agent, clients, server
from deploy.testbed.nas.guest.system import MS_BIND, BootLog, fail, mount, power_off, write

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run_and_reap(job: Path) -> None:
    """Does the work in a child while this process, the machine's first, reaps its orphans.

    Never returns.
    """
    if os.fork() == 0:
        run(job)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            power_off()


def run(job: Path) -> None:
    """Boots, does its work, and powers off.

    Whatever goes wrong is found in `boot.log` and `status` of the job directory.
    """
    try:
        machine, log = _prepare(job)
        if machine.role == "all":
            server.start(machine, job, log)
            clients.start_namespaces(machine, log)
            write(job / "ready", "")
            write(job / "status", str(_command(machine, job)))
        else:
            _start_host(machine, job, log)
            agent.serve(machine.control_address, lambda: write(job / "ready", ""))
    except BaseException:  # noqa: BLE001 - the machine is about to end: why must be left behind
        fail(job)
    finally:
        power_off()


def _prepare(job: Path) -> tuple[Machine, BootLog]:
    os.environ.update(PATH=PATH, HOME="/root", LANG="C.UTF-8")
    _mount_system(job)
    machine = Machine.load(job)
    log = BootLog(job / "boot.log")
    log.note("root")
    write("/proc/sys/kernel/hostname", machine.name)
    identifier = Path("/etc/machine-id")
    identifier.unlink(missing_ok=True)
    identifier.write_text(
        f"{machine.number:032x}\n", encoding="ascii"
    )  # machines that share a root are still different machines
    shutil.copy(Path(__file__).with_name("nas"), "/usr/local/bin/nas")
    log.require("ip", "link", "set", "lo", "up")
    _open_virtualbox()
    return machine, log


#: Where the project is: what hides it must not be mounted.
PROJECT = Path(__file__).resolve().parents[4]


def _mount_system(job: Path) -> None:
    for source, target, kind, options in (
        ("proc", "/proc", "proc", ""),
        ("sysfs", "/sys", "sysfs", ""),
        ("devtmpfs", "/dev", "devtmpfs", ""),
        ("devpts", "/dev/pts", "devpts", ""),
        ("tmpfs", "/dev/shm", "tmpfs", ""),
        ("tmpfs", "/run", "tmpfs", ""),
        ("tmpfs", "/mnt", "tmpfs", ""),
        *(
            []
            if PROJECT.is_relative_to("/var/tmp")
            else [("tmpfs", "/var/tmp", "tmpfs", "mode=1777")]
        ),
        ("none", str(job), "hostfs", str(job)),
    ):
        mount(source, target, kind, options)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        if not os.path.lexists(f"/dev/{name}"):
            os.symlink(target, f"/dev/{name}")
    for directory in ("/run/lock", "/run/netns", "/run/samba", "/run/sendsigs.omit.d"):
        os.makedirs(directory, exist_ok=True)


def _open_virtualbox() -> None:
    """Makes a VirtualBox chroot of the test bed usable.

    What it has of /proc and /dev from outside means nothing here.
    """
    chroot = Path(os.environ["TESTBED"], "virtualbox")
    if (chroot / "usr/bin/VBoxManage").exists():
        mount("proc", str(chroot / "proc"), "proc")
        for directory in ("/dev", "/dev/pts", "/dev/shm"):
            mount(directory, f"{chroot}{directory}", "none", flags=MS_BIND)


def _start_host(machine: Machine, job: Path, log: BootLog) -> None:
    for device, address in (("vec0", machine.data_address), ("vec1", machine.control_address)):
        log.require(
            "ip", "-batch", "-", given=f"addr add {address}/24 dev {device}\nlink set {device} up\n"
        )
    if machine.role == "server":
        server.start(machine, job, log)
    else:
        clients.start_host(machine, log)


def _command(machine: Machine, job: Path) -> int:
    """Runs the command, and copies its output to the outside while it runs."""
    process = subprocess.Popen(
        ["timeout", "--kill-after=5", str(machine.limit_seconds), *machine.command],
        cwd=machine.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout
    relay = threading.Thread(
        target=_relay, args=(process.stdout.fileno(), job / "output"), daemon=True
    )
    relay.start()
    status = process.wait()
    relay.join(1)  # a daemon that the command left behind may hold its output open for ever
    return status if status >= 0 else 128 - status


def _relay(source: int, path: Path) -> None:
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while data := os.read(source, 65536):
        os.write(target, data)
        os.fsync(target)  # the shared file system writes back late
