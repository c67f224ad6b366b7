"""Whether the NAS is there, mounted reliably, and does what the state database needs."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from coordinator import text
from coordinator.doctor.result import FULL, READ_ONLY, Check, failed
from shared.host.clock import Clock
from shared.host.configuration import Nas
from shared.host.errors import VmBackupError
from shared.nas.mount import NETWORK, Mount, NasStatus
from shared.nas.reading import list_fresh
from shared.nas.spelling import HINT, TRIAL, changed_names, trial_directory
from shared.nas.writing import remove_tree, write_new_file
from shared.state.store.create import probe_primitive

_PROBE_AGE_SECONDS: Final = 3600
_SAMPLES: Final = 5
_SLOW_SECONDS: Final = 1.0
_SKEW_SECONDS: Final = 5.0
_UNTRIED: Final = frozenset(
    {"fuse.sshfs", "fuse.rclone", "fuse.davfs", "davfs", "afpfs", "9p", "fuse.glusterfs", "ceph"}
)
_CACHE_LIMIT_SECONDS: Final = 60
_READ_ONLY: Final = Check(
    "NAS: mount options",
    "fail",
    "mounted read-only",
    "look at the server's disk and its export, then mount it again",
    READ_ONLY,
)


def examine_mount(status: NasStatus, nas: Nas) -> Iterator[Check]:
    """What is mounted, with which options, and how much room there is."""
    mount = status.mount
    if mount is None or not nas.require_mount:
        yield Check("NAS", "ok", f"{status.path} answers")
    else:
        yield Check("NAS", "ok", f"{mount.filesystem} from {mount.source} at {mount.path}")
    if status.read_only and (mount is None or "ro" not in mount.options):
        yield _READ_ONLY
    if mount is not None:
        yield from examine_options(mount)
    free = f"{text.size(status.free)} of {text.size(status.total)} free"
    if status.free < max(nas.reserve, 1):
        yield Check(
            "NAS: room",
            "fail",
            f"{free}, less than nas.reserve" if nas.reserve else free,
            "free some space ('The NAS is full' in docs/operation.md): no export starts until then",
            FULL,
        )
    else:
        yield Check("NAS: room", "ok", free)


def examine_options(mount: Mount) -> Iterator[Check]:
    """Mount options that are known to hurt (see docs/nas.md)."""
    values = dict(option.partition("=")[::2] for option in mount.options)
    wrong: list[tuple[str, str]] = []
    if mount.filesystem in _UNTRIED:
        wrong.append(
            (
                f"a file system of type {mount.filesystem}",
                "NFS 3, NFS 4 and SMB 3 have been tried; mount it so if you can",
            )
        )
    if mount.filesystem in NETWORK:
        wrong += _harmful(mount.filesystem, values)
    if "ro" in values:
        yield _READ_ONLY
    for what, hint in wrong:
        yield Check("NAS: mount options", "warn", what, hint)
    if not wrong and "ro" not in values:
        yield Check("NAS: mount options", "ok", ",".join(mount.options))


def _harmful(filesystem: str, values: dict[str, str]) -> Iterator[tuple[str, str]]:
    if "nocto" in values:
        yield "nocto: files are read from a cache that may be old", "remount without nocto"
    if filesystem.startswith("nfs") and ("soft" in values or "softerr" in values):
        yield (
            "soft: a server that is away for a while makes writes fail",
            "remount with hard, the default",
        )
    if values.get("cache") == "loose":
        yield (
            "cache=loose: hosts do not see each other's writes",
            "remount with cache=strict, the default",
        )
    if values.get("vers", "").startswith("1"):
        yield f"SMB version {values['vers']}", "remount with vers=3.1.1"
    for name in ("actimeo", "acregmax", "acdirmax"):
        if values.get(name, "").isdecimal() and int(values[name]) > _CACHE_LIMIT_SECONDS:
            yield (
                f"{name}={values[name]}: news from other hosts arrive late",
                f"remount without {name}, or with 60 at most",
            )


def examine_use(nas: Nas, clock: Clock, expected: str | None) -> Iterator[Check]:
    """Tries out what the program does there.

    Rights, exclusive creation, links, renames, speed, clock. Leaves nothing behind.

    `expected` is the publishing primitive that the database uses, if there is one. Raises OSError
    if the user may not write there.
    """
    _remove_old_probes(nas.mountpoint, clock)
    with trial_directory(nas.mountpoint) as probe:
        ahead = os.stat(probe).st_mtime - clock.now().timestamp()
        yield Check(
            "NAS: rights",
            "ok",
            f"this user (uid {os.geteuid()}) may make directories in {nas.mountpoint}",
        )
        yield _exclusive(probe)
        yield _rename(probe)
        yield _primitive(probe, expected)
        yield _names(probe)
        yield _latency(probe)
        yield _skew(ahead)


def _exclusive(probe: Path) -> Check:
    write_new_file(probe / "exclusive", b"first")
    try:
        write_new_file(probe / "exclusive", b"second")
    except FileExistsError:
        return Check("NAS: exclusive creation", "ok", "a second creation is refused")
    return Check(
        "NAS: exclusive creation",
        "fail",
        "an existing file is created again",
        "mount it by NFS 3, NFS 4 or SMB 3",
    )


def _rename(probe: Path) -> Check:
    for name in ("old", "new"):
        write_new_file(probe / name, name.encode())
    os.replace(probe / "new", probe / "old")
    present = list_fresh(probe)
    if (probe / "old").read_bytes() == b"new" and "new" not in present:
        return Check("NAS: rename", "ok", "a file replaces another one in one step")
    return Check(
        "NAS: rename", "fail", "a rename does not replace", "mount it by NFS 3, NFS 4 or SMB 3"
    )


def _primitive(probe: Path, expected: str | None) -> Check:
    (probe / "tmp").mkdir()
    try:
        found = probe_primitive(probe)
    except VmBackupError as error:
        return failed("NAS: publishing", error)
    if expected == "link" and found != "link":
        hint = (
            "all hosts must mount the NAS by the same protocol; this one was set up for hard links"
        )
        return Check(
            "NAS: publishing",
            "fail",
            "the database needs hard links, and there are none on this mount",
            hint,
        )
    return Check(
        "NAS: publishing",
        "ok",
        f"by {found}; the database uses {expected}" if expected else f"by {found}",
    )


def _names(probe: Path) -> Check:
    (probe / "names").mkdir()
    if wrong := changed_names(probe / "names"):
        return Check(
            "NAS: names", "fail", f"they are not given back as they were written: {wrong}", HINT
        )
    return Check("NAS: names", "ok", "capitals and accents are given back as they were written")


def _latency(probe: Path) -> Check:
    began = time.monotonic()
    for number in range(_SAMPLES):
        write_new_file(probe / f"speed.{number}", b"0" * 512)
        os.unlink(probe / f"speed.{number}")
    seconds = (time.monotonic() - began) / _SAMPLES
    seen = f"creating, syncing and removing a file takes {seconds * 1000:.0f} ms"
    if seconds > _SLOW_SECONDS:
        return Check(
            "NAS: speed",
            "warn",
            seen,
            "workers will be slow, but correct; look at the network and the server's load",
        )
    return Check("NAS: speed", "ok", seen)


def _skew(ahead: float) -> Check:
    seen = (
        f"the NAS's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this host's"
    )
    if abs(ahead) > _SKEW_SECONDS:
        return Check(
            "NAS: clock",
            "warn",
            seen,
            "nothing is decided by clocks, but ages in status are wrong: let both use NTP",
        )
    return Check("NAS: clock", "ok", "agrees with this host's")


def _remove_old_probes(mountpoint: Path, clock: Clock) -> None:
    for name in list_fresh(mountpoint):
        path = mountpoint / name
        if name.startswith(TRIAL):
            with contextlib.suppress(OSError):
                if clock.now().timestamp() - path.lstat().st_mtime > _PROBE_AGE_SECONDS:
                    remove_tree(path)
