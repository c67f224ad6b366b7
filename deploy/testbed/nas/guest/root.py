"""The first process of a guest.

Builds a root that can be written to without touching the machine outside, then goes on in `main`.

The kernel mounts this machine's own root read-only (hostfs). Over it come the unpacked packages,
and over these a throw-away layer in memory. The kernel command line names, as environment
variables, `JOB` (the directory shared with the outside) and `PACKAGES` (the directory of the
unpacked packages).
"""

import os
from pathlib import Path

from deploy.testbed.nas.guest.system import detach, load_module_file, mount, pivot_root

MODULES = "usr/lib/uml/modules"


def build_root() -> None:
    """Makes `/` the overlay, and hides the read-only root below it."""
    mount("tmpfs", "/mnt", "tmpfs", "size=80%")
    for name in ("upper", "work", "root", "packages"):
        os.mkdir(f"/mnt/{name}")
    # A file system of its own: an overlay refuses one lower directory inside another.
    mount("none", "/mnt/packages", "hostfs", os.environ["PACKAGES"])
    release = os.uname().release
    modules = next(
        path
        for path in (Path("/mnt/packages", MODULES, release), Path("/", MODULES, release))
        if path.is_dir()
    )
    load_module_file(modules / "kernel/fs/overlayfs/overlay.ko")
    mount(
        "overlay",
        "/mnt/root",
        "overlay",
        "lowerdir=/mnt/packages:/,upperdir=/mnt/upper,workdir=/mnt/work",
    )
    os.makedirs("/mnt/root/usr/lib/modules", exist_ok=True)
    if not os.path.lexists(f"/mnt/root/usr/lib/modules/{release}"):
        os.symlink(f"/{MODULES}/{release}", f"/mnt/root/usr/lib/modules/{release}")
    os.chdir("/mnt/root")
    # Not a mere chroot: the kernel's own threads must see the new root too, where the socket of
    # rpcbind is.
    pivot_root(".", "mnt")
    os.chroot(".")
    detach("/mnt")
    os.chdir("/")


if __name__ == "__main__":
    build_root()
    from deploy.testbed.nas.guest import main

    main.run_and_reap(Path(os.environ["JOB"]))
