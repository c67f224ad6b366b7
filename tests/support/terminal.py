"""A terminal of so many columns, and what a person reads there."""

import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping, Sequence
from fcntl import ioctl

#: What moves the cursor, colours or clears: nothing that is read.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def read_at_terminal(
    command: Sequence[str],
    columns: int,
    environment: Mapping[str, str],
    meanwhile: Callable[[subprocess.Popen[bytes], str], None] = lambda _process, _said: None,
) -> tuple[int, str]:
    """Runs a command there: its exit code and all that it showed, without control sequences.

    `meanwhile` is called whenever something new is shown.
    """
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    # what tells of another terminal than this one does not count
    here = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env={**here, "TERM": "xterm"}
    )
    os.close(follower)
    said = b""
    try:
        while piece := os.read(leader, 1 << 16):
            said += piece
            meanwhile(process, said.decode(errors="replace"))
    except OSError:  # the terminal has no writer any more
        pass
    os.close(leader)
    text = said.decode().replace("\r\n", "\n").replace("\r", "\n")
    return process.wait(), _CONTROL.sub("", text)
