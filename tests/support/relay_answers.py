"""What a relay does in the machine that has the NAS (tests.support.relay).

    python -m tests.support.relay_answers JOB FILE

Copies FILE of the directory JOB to the NAS as host A, and answers as host B what is asked of it.
"""

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Final

#: What the kernel calls a mount, by its kind.
_KINDS: Final = {"nfs": "nfs4", "smb": "cifs"}


def main(job: Path, name: str) -> None:
    """Answers for as long as the machine lives."""
    files = {kind: _on_the_nas(job / name, kind) for kind in _KINDS}
    (job / "serves").touch()
    done: set[str] = set()
    while True:
        for asked in sorted(set(os.listdir(job / "asked")) - done):
            _answer(job / "answered", asked, files)
            done.add(asked)
        time.sleep(0.002)


def _on_the_nas(file: Path, kind: str) -> int:
    """Takes a file to the NAS as one host, and opens it as another, by a mount of that kind."""
    mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    kinds = {line.split()[1]: line.split()[2] for line in mounts}
    assert kinds[f"/mnt/{kind}-b"] == _KINDS[kind]
    shutil.copyfile(file, f"/mnt/{kind}-a/{file.name}")
    os.listdir(f"/mnt/{kind}-b")
    return os.open(f"/mnt/{kind}-b/{file.name}", os.O_RDONLY)


def _answer(folder: Path, asked: str, files: dict[str, int]) -> None:
    """The name of a question is KIND-NUMBER-OFFSET-SIZE; that of its answer is the same."""
    kind, _, offset, size = asked.split("-")
    try:
        data = os.pread(files[kind], int(size), int(offset))
    except OSError as error:
        data, asked = str(error).encode(), f"failed-{asked}"
    private = folder / f".{asked}"
    with private.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # the file system that is shared with the outside writes back late
    private.rename(folder / asked)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
