"""The NAS: one ext4 disk, served by the kernel's NFS server and by Samba."""

import os
import subprocess
from pathlib import Path

from deploy.testbed.nas.configuration import Machine
from deploy.testbed.nas.guest.system import MS_BIND, MS_NOATIME, BootLog, mount, write

EXPORTS = "/srv/nas *(rw,sync,no_root_squash,no_subtree_check,insecure,fsid=0)\n"

SAMBA = """[global]
workgroup = NAS
server role = standalone server
disable netbios = yes
smb ports = 445
load printers = no
printing = bsd
printcap name = /dev/null
log file = /var/log/samba/log
server min protocol = SMB2
[nas]
path = /srv/nas/smb
read only = no
force user = root
"""


def start(machine: Machine, job: Path, log: BootLog) -> None:
    """Mounts the disk and starts both servers."""
    log.run("modprobe", "lockd", "nlm_grace_period=1")
    log.require("modprobe", "-a", "sunrpc", "nfsd")
    # Its journal is written late unless somebody syncs: what a power cut takes is lost for certain
    # here, not by bad luck.
    mount("/dev/ubda", "/srv/nas", "ext4", "commit=60", flags=MS_NOATIME)
    for name in ("nfs", "smb"):
        os.makedirs(f"/srv/nas/{name}", exist_ok=True)
        os.chmod(f"/srv/nas/{name}", 0o1777)
    password = _prepare_samba(log)
    _prepare_nfs(job / "nfs-state")
    _add_user("_rpc", log)
    log.require("rpcbind", "-w")
    log.require("nfsdcld")
    write("/proc/fs/nfsd/nfsv4leasetime", str(machine.mounts.nfs_lease_seconds))
    write("/proc/fs/nfsd/nfsv4gracetime", str(machine.mounts.nfs_grace_seconds))
    log.require("exportfs", "-r")
    log.require("rpc.nfsd", "8")
    log.require("rpc.mountd")
    log.note("nfs server")
    if password.wait():
        raise RuntimeError("smbpasswd failed")
    log.require("smbd", "-D")
    log.note("smb server")


def _add_user(name: str, log: BootLog) -> None:
    """Packages that were only unpacked have not made their users.

    Rpcbind ends without a word when its own is missing.
    """
    with open("/etc/passwd", "r+", encoding="utf-8") as file:
        if not any(line.startswith(f"{name}:") for line in file):
            file.write(f"{name}:x:64999:65534::/run:/usr/sbin/nologin\n")
            log.note(f"user {name} added")


def _prepare_nfs(state: Path) -> None:
    mount("nfsd", "/proc/fs/nfsd", "nfsd")
    # It outlives a power cut, because a server that restarts must know the clients of its last
    # life; and it is not on the exported disk, which could not become read-only while it is open
    # there.
    state.mkdir(exist_ok=True)
    mount(str(state), "/var/lib/nfs", "none", flags=MS_BIND)
    for name in ("sm", "sm.bak", "v4recovery", "rpc_pipefs", "nfsdcld"):
        os.makedirs(f"/var/lib/nfs/{name}", exist_ok=True)
    for name in ("etab", "rmtab"):
        write(f"/var/lib/nfs/{name}", "")
    mount("rpc_pipefs", "/var/lib/nfs/rpc_pipefs", "rpc_pipefs")
    mount("rpc_pipefs", "/run/rpc_pipefs", "rpc_pipefs")
    write("/etc/exports", EXPORTS)


def _prepare_samba(log: BootLog) -> "subprocess.Popen[str]":
    """Writes the configuration and starts to set root's password, which takes a second."""
    for directory in ("/var/lib/samba/private", "/var/log/samba", "/var/cache/samba"):
        os.makedirs(directory, exist_ok=True)
    write("/etc/samba/smb.conf", SAMBA)
    process = subprocess.Popen(
        ["smbpasswd", "-s", "-a", "root"],
        stdin=subprocess.PIPE,
        text=True,
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin
    process.stdin.write("nas\nnas\n")
    process.stdin.close()
    log.note("samba configured")
    return process
