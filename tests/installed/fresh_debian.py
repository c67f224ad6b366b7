"""A Debian that was just installed, above the layers of the test bed, and gone with the test.

It has mounts and processes of its own: a disk in memory above the layers, a `/dev` of its own, a
NAS at `/mnt/nas`, cron, and the user alice with a simulated VirtualBox. Nothing of this machine
can be written from inside.
"""

import hashlib
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

PROJECT: Final = Path(__file__).resolve().parents[2]
_TESTBED: Final = PROJECT / "deploy/testbed/debian"
CLONE: Final = "/srv/vmbackup"
#: Not of the system: other file systems, and what the test brings along.
_ELSEWHERE: Final = ("/proc", "/dev", "/mnt/nas", "/tmp", "/srv", "/run")
#: `$0`: the layers, `$1`: an empty directory, `$2`: a clone, `$3`: the packages for pip.
_BOOT: Final = """
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=$0,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs dev
for device in null:3 zero:5 full:7 random:8 urandom:9; do
  mknod -m 666 "dev/${device%:*}" c 1 "${device#*:}"
done
ln -s /proc/self/fd dev/fd
mkdir -p dev/shm mnt/nas srv/vmbackup srv/wheels old
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 nas mnt/nas
mount -t tmpfs tmpfs srv
mkdir srv/vmbackup srv/wheels
cp -a "$2/." srv/vmbackup
cp -a "$3/." srv/wheels
pivot_root . old
exec chroot . sh -euc 'umount --lazy /old; rmdir /old; echo ready; exec sleep infinity'
"""
_VIRTUALBOX: Final = f"""
import sys
from pathlib import Path
sys.path.insert(0, {CLONE!r})
from tests.support.simulated import SimulatedHost
SimulatedHost(Path("/home/alice"), "virtualbox").make_vm("web01")
"""


class FreshDebian:
    """See the module. `suite`: stable or sid. Raises `CalledProcessError` if it cannot be had."""

    def __init__(self, suite: str, clone: Path) -> None:
        layers, wheels = (_ask(program, suite) for program in ("set-up", "wheels"))
        self._place = tempfile.TemporaryDirectory(prefix="vmbackup-debian-")
        own = ("--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
        words = ("sh", "-euc", _BOOT, layers, self._place.name, str(clone), wheels)
        self._holder = subprocess.Popen(
            ["unshare", *own, *words], stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        self._first = children.read_text().split()[0]

    def __enter__(self) -> Self:
        try:
            self._furnish()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _furnish(self) -> None:
        self.root("""
            printf '[global]\\nno-index = true\\nfind-links = /srv/wheels\\n' >/etc/pip.conf
            chown alice: /mnt/nas
            install -d -o alice /home/alice/.config
            ln -s /home/alice/virtualbox/config /home/alice/.config/VirtualBox
            ln -s /home/alice/virtualbox/VBoxManage /usr/local/bin/VBoxManage
            cron
        """)
        self.alice(f"PYTHONDONTWRITEBYTECODE=1 python3 - <<'END'{_VIRTUALBOX}END")

    def __exit__(self, *_: object) -> None:
        assert self._holder.stdout is not None
        self._holder.stdout.close()
        self._holder.kill()
        self._holder.wait()
        self._place.cleanup()

    def root(self, script: str, *, check: bool = True) -> str:
        """What a script of root prints, errors included. AssertionError if it fails."""
        return self._run(script, "root", "/root", check=check)

    def alice(self, script: str, *, check: bool = True) -> str:
        """The same as alice, the owner of the VMs."""
        return self._run(script, "alice", "/home/alice", check=check)

    def _run(self, script: str, user: str, home: str, *, check: bool) -> str:
        inside = ["nsenter", "--target", self._first, "--mount", "--pid", "--root", "--wd"]
        shell = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "sh", "-euc"]
        done = subprocess.run(
            [*inside, *shell, f"cd {home}\n{script}"],
            env={
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": home,
                "USER": user,
                "LC_ALL": "C.UTF-8",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def wait_for(self, script: str, seconds: float) -> str:
        """What alice's script prints when it succeeds at last."""
        end = time.monotonic() + seconds
        while not (said := self.alice(f"{script} || true")).strip():
            assert time.monotonic() < end, f"not within {seconds:.0f} s: {script}"
            time.sleep(0.5)
        return said

    def files(self) -> Mapping[str, str]:
        """All files of the system: kind, rights, owner, contents."""
        top = f"/proc/{self._first}/root"
        found = {}
        for folder, names, files in os.walk(top):
            inside = folder.removeprefix(top)
            names[:] = [name for name in names if f"{inside}/{name}" not in _ELSEWHERE]
            for name in (*names, *files):
                path = f"{folder}/{name}"
                found[f"{inside}/{name}"] = _described(path)
        return found


def _described(path: str) -> str:
    status = os.lstat(path)
    what = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
    if stat.S_ISLNK(status.st_mode):
        return f"{what} {os.readlink(path)}"
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            return f"{what} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    return what


def _ask(program: str, suite: str) -> str:
    done = subprocess.run(
        [_TESTBED / program, suite], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


def clone(folder: Path, commit: str = "") -> Path:
    """The files of the project as they are now, or as they were at a commit, in a new `folder`.

    AssertionError, with what to do, where the history does not reach so far.
    """
    folder.mkdir()
    git = ["git", "-C", str(PROJECT)]
    if commit:
        kept = subprocess.run([*git, "archive", commit], capture_output=True, check=False)
        assert kept.returncode == 0, f"no commit {commit}: `git fetch --unshallow` {kept.stderr!r}"
        subprocess.run(["tar", "-x", "-C", folder], input=kept.stdout, check=True)
        return folder
    listed = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, check=True).stdout
    packed = subprocess.run(
        ["tar", "-C", PROJECT, "--null", "--files-from=-", "-c"],
        input=b"\0".join(
            n for n in names.split(b"\0") if os.path.lexists(PROJECT / os.fsdecode(n))
        ),
        capture_output=True,
        check=True,
    )
    subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)
    return folder
