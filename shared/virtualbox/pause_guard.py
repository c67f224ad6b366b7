"""Pauses a VM, and sees to it that it goes on: a program of its own, which outlives its caller.

Run as `python -I -S pause_guard.py guard UUID SECONDS NOTE VBOXMANAGE`. It says `ready`, and waits
for the line `pause`. It pauses the VM and says `paused`, or `refused` and why. It resumes the VM as
soon as it reads `release`, its caller ends (the end of its input), or the seconds are nearly over,
whichever is first, and then says what was: `held` if the VM was paused throughout, else `changed`
or `late`.

A VM that somebody else has resumed, or paused since, is left alone. NOTE is there from before the
pause until the VM goes on, and has the moment of the pause as soon as that is known: by it others
know that a VM was paused by this program, should that be killed as well. Signals that end programs
are ignored, because it ends by itself, soon after its caller.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time

#: VirtualBox may take so long to resume a VM: that is begun before the seconds are over.
_RESUME_SECONDS = 0.5
#: For so long it is tried to resume a VM, while VirtualBox does not answer.
_PATIENCE_SECONDS = 600.0
_RETRY_SECONDS = 0.3
#: A VBoxManage that does not answer is ended after so long.
_ANSWER_SECONDS = 60.0
_SILENT = "VBoxManage does not answer"

#: A VM goes from these to another state only if somebody does something.
_LASTING = frozenset(
    {
        "running",
        "paused",
        "poweroff",
        "saved",
        "aborted",
        "aborted-saved",
        "gurumeditation",
        "stuck",
        "teleported",
    }
)


class Guest:
    """A VM, as VBoxManage tells of it."""

    def __init__(self, program: str, uuid: str) -> None:
        self._program, self._uuid = program, uuid

    def do(self, verb: str) -> str:
        """Pauses or resumes it: why that failed; empty: it did not."""
        status, _, said = self._run("controlvm", self._uuid, verb)
        return "" if status == 0 else " ".join(said.split())[-300:] or f"status {status}"

    def look(self) -> tuple[str, str]:
        """Its state, and when that changed last; empty where VirtualBox does not say it."""
        _, text, _ = self._run("showvminfo", self._uuid, "--machinereadable")
        state, moment = (
            re.search(rf'^{key}="([^"]*)"$', text, re.MULTILINE)
            for key in ("VMState", "VMStateChangeTime")
        )
        return (state[1], moment[1]) if state and moment else ("", "")

    def let_go_on(self, moment: str) -> str:
        """Resumes it, if it was paused at this moment: in which state it was until now.

        One that runs, or that somebody has paused at another moment, is left alone. A state that
        passes, as that of a snapshot, is waited for: then it goes back to the pause by itself, at
        another moment. Empty: the state is not known, and nothing keeps it from being resumed.
        """
        end, first = time.monotonic() + _PATIENCE_SECONDS, ""
        while True:
            state, now = self.look()
            changed = moment not in ("", now)
            first = first or ("changed" if state and changed else state)
            if state in _LASTING and (state != "paused" or changed):
                return first
            if state in ("", "paused") and not self.do("resume"):
                return first
            if time.monotonic() >= end:
                sys.exit(1)  # the note stays: the next tick goes on
            if state != "paused":
                time.sleep(_RETRY_SECONDS)
            if state and state not in _LASTING:
                moment = ""

    def _run(self, *words: str) -> tuple[int, str, str]:
        try:
            done = subprocess.run(
                [self._program, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=_ANSWER_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return -1, "", _SILENT
        return (
            done.returncode,
            done.stdout.decode("utf-8", "replace").replace("\r\n", "\n"),
            done.stderr.decode("utf-8", "replace"),
        )


def main(uuid: str, seconds: float, note: str, program: str) -> None:
    """See above."""
    guest = Guest(program, uuid)
    say("ready")
    if heard(None) != "pause":
        return
    end = time.monotonic() + seconds - _RESUME_SECONDS
    write(note, "")
    refused = guest.do("pause")
    state, moment = ("", "") if refused else guest.look()
    if state == "paused":
        with contextlib.suppress(OSError):
            write(note, moment)
        say("paused")
        answer = {"release": "held", None: "late"}.get(heard(end), "gone")
    else:
        answer = f"refused {refused or 'it was resumed at once'}"
    if not refused or refused == _SILENT:
        until = guest.let_go_on(moment)
        if answer == "held" and until != "paused":
            answer = "changed"
    if refused != _SILENT:  # it may be paused later
        with contextlib.suppress(OSError):
            os.unlink(note)
    say(answer)


def heard(end: float | None) -> str | None:
    """The next line of the caller; empty if that has ended, None if there is none in time."""
    line = b""
    while not line.endswith(b"\n"):
        left = None if end is None else max(0.0, end - time.monotonic())
        if not select.select([0], [], [], left)[0]:
            return None
        byte = os.read(0, 1)
        if not byte:
            return ""
        line += byte
    return line.decode().strip()


def say(text: str) -> None:
    """A line for the caller, if that is still there."""
    with contextlib.suppress(OSError):
        os.write(1, f"{text}\n".encode())


def write(path: str, text: str) -> None:
    """Writes a short file anew."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    main(sys.argv[2], float(sys.argv[3]), sys.argv[4], sys.argv[5])
