"""The hosts: kernel clients of the NAS, each with its own connections and caches."""

import os

from deploy.testbed.nas.configuration import FIRST_CLIENT_NUMBER, Machine, Mounts, server_address
from deploy.testbed.nas.guest.system import (
    BootLog,
    bind_file,
    enter_namespace,
    mount,
    new_host_name,
    wait_for_port,
    write,
)

MODULES = (
    "sch_netem",
    "nfs",
    "nfsv3",
    "nfsv4",
    "cifs",
    "cmac",
    "ccm",
    "gcm",
    "md4",
    "sha512",
    "ecb",
)
KINDS = ("nfs", "nfs3", "smb")


def mount_all(server: str, client: str, suffix: str, mounts: Mounts) -> None:
    """Mounts the NAS three ways at `/mnt/<kind><suffix>`, from the calling process's network."""
    nfs = f"addr={server},nosharecache,{mounts.nfs_options}"
    mount(f"{server}:/nfs", f"/mnt/nfs{suffix}", "nfs4", f"vers=4.2,clientaddr={client},{nfs}")
    mount(
        f"{server}:/srv/nas/nfs",
        f"/mnt/nfs3{suffix}",
        "nfs",
        f"vers=3,nolock,proto=tcp,mountproto=tcp,{nfs}",
    )
    smb = f"ip={server},unc=\\\\{server}\\nas,vers=3.1.1,user=root,pass=nas,nosharesock,"
    smb += mounts.smb_options
    mount(f"//{server}/nas", f"/mnt/smb{suffix}", "cifs", smb)


def start_host(machine: Machine, log: BootLog) -> None:
    """Makes this kernel one client: `/mnt/nfs`, `/mnt/nfs3`, `/mnt/smb`."""
    log.require("modprobe", "-a", *MODULES)
    # Two NFS 4 clients of one identity would share their state on the server.
    write("/sys/fs/nfs/net/nfs_client/identifier", machine.name)
    for port in (2049, 445):
        wait_for_port(server_address(), port, limit_seconds=60)
    mount_all(server_address(), machine.data_address, "", machine.mounts)
    log.note("mounts")


def start_namespaces(machine: Machine, log: BootLog) -> None:
    """Gives every client a network and a host name in this kernel, and its mounts.

    They are at `/mnt/<kind>-<name>`.
    """
    log.require("modprobe", "-a", "veth", *MODULES)
    lines = []
    for number, name in enumerate(machine.clients, FIRST_CLIENT_NUMBER):
        lines += [
            f"netns add c-{name}",
            f"link add v-{name} type veth peer name eth0 netns c-{name}",
        ]
        lines += [f"addr add 10.77.{number}.1/24 dev v-{name}", f"link set v-{name} up"]
    log.require("ip", "-batch", "-", given="\n".join(lines) + "\n")
    children = []
    for number, name in enumerate(machine.clients, FIRST_CLIENT_NUMBER):
        lines = ["link set lo up", f"addr add 10.77.{number}.2/24 dev eth0", "link set eth0 up"]
        log.require("ip", "-n", f"c-{name}", "-batch", "-", given="\n".join(lines) + "\n")
        for path in (f"/mnt/{kind}-{name}" for kind in KINDS):
            os.makedirs(path, exist_ok=True)
        write(f"/run/host-{name}", "")
        children.append(_fork_client(number, name, machine.mounts, log))
    failures = [child for child in children if os.waitpid(child, 0)[1]]
    if failures:
        raise RuntimeError("a client could not mount the NAS")
    log.note("mounts")


def _fork_client(number: int, name: str, mounts: Mounts, log: BootLog) -> int:
    """Makes a client in a child process: joining a namespace changes the process that does it."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        enter_namespace(f"/run/netns/c-{name}")
        new_host_name(f"c-{name}")
        bind_file("/proc/self/ns/uts", f"/run/host-{name}")  # the name lives on for `nas in`
        mount("sysfs", f"/run/sys-{name}", "sysfs")
        write(f"/run/sys-{name}/fs/nfs/net/nfs_client/identifier", f"nas-{name}")
        mount_all(f"10.77.{number}.1", f"10.77.{number}.2", f"-{name}", mounts)
        status = 0
    except BaseException:  # noqa: BLE001 - a forked child must end here, whatever happens
        log.note_exception()
    os._exit(status)
