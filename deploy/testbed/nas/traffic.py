"""What the kernel has counted at an NFS mount of this machine."""

import re
from pathlib import Path


def sent(mountpoint: Path, operation: str) -> tuple[int, int]:
    """How often a mount has asked for an NFS operation (`WRITE`, `COPY`), and the bytes sent."""
    text = Path("/proc/self/mountstats").read_text(encoding="ascii")
    mount = re.search(
        rf"mounted on {re.escape(str(mountpoint))} with.*?(?=\ndevice |\Z)", text, re.DOTALL
    )
    if not mount:
        raise ValueError(f"{mountpoint} is no NFS mount of this machine")
    found = re.search(rf"^\s*{operation}: (\d+) \d+ \d+ (\d+)", mount[0], re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else (0, 0)
