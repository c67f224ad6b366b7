"""Pauses a VM, and sees to it that it goes on: a program of its own, which outlives its caller.

Run as `python -I -S pause_guard.py guard UUID SECONDS NOTE VBOXMANAGE`. It says `ready`, and waits
for the line `pause`. It pauses the VM and says `paused`, or `refused` and why. It resumes the VM as
soon as it reads `release`, its caller ends (the end of its input), or the seconds are nearly over,
whichever is first, and then says what was: `held` and since when, if the VM was paused throughout,
else `changed` or `late`.

A VM that somebody else has resumed, or paused since, is left alone. One of which a snapshot was
taken or deleted meanwhile goes on: VirtualBox has paused it anew after that. NOTE is there from
before the pause until the VM goes on, and has its moment and the VM's snapshots as soon as they
are known: by them others let the VM go on, should this program be killed as well. Signals that end
programs are ignored, because it ends by itself, soon after its caller.
"""

import contextlib
import math
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import IO

#: VirtualBox may take so long to resume a VM: that is begun before the seconds are over.
_RESUME_SECONDS = 0.5
#: For so long it is tried to resume a VM, while VirtualBox does not answer.
_PATIENCE_SECONDS = 600.0
_RETRY_SECONDS = 0.3
#: Nearly all VBoxManages have ended by then.
_LATE_SECONDS = 1.5
#: While two run, each is looked at in turn.
_POLL_SECONDS = 0.05
#: A VBoxManage that has not answered after so long does not do so.
_ANSWER_SECONDS = 60.0
_SILENT = "VBoxManage does not answer"
#: What VirtualBox says if somebody else was quicker.
_THEIRS = "Already paused"
#: After these failures it may be paused all the same, also later.
_OPEN = (_SILENT, "ended by signal", "NS_ERROR_CALL_FAILED")

#: A VM goes from these to another state only if somebody does something.
_OFF = {"poweroff", "saved", "aborted", "aborted-saved"}
_LASTING = {*_OFF, "running", "paused", "gurumeditation", "stuck", "teleported"}


class Call:
    """VBoxManage, asked for something. It writes where it can go on if nobody waits for it."""

    def __init__(self, words: list[str]) -> None:
        self._printed, self._complained = paper(), paper()
        self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=self._printed, stderr=self._complained
        )
        self.overdue = time.monotonic() + _ANSWER_SECONDS

    def ended(self, seconds: float = 0) -> bool:
        """Whether it has ended after so long. Ends it if its time is over."""
        if time.monotonic() >= self.overdue:
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    @property
    def printed(self) -> str:
        """What it printed."""
        self._printed.seek(0)
        return self._printed.read().decode("utf-8", "replace").replace("\r\n", "\n")

    @property
    def failure(self) -> str:
        """Why it failed; empty: it did not."""
        status = self._process.returncode
        if status < 0:
            return f"VBoxManage was ended by signal {-status}"
        self._complained.seek(0)
        said = " ".join(self._complained.read().decode("utf-8", "replace").split())
        return "" if status == 0 else said[-300:] or f"status {status}"


class Guest:
    """A VM, as VBoxManage tells of it.

    VBoxManage now and then sleeps for ten seconds after its work. So nobody waits for one that is
    late: another one is asked. It is left to itself for a while, because one that only asks may
    hold a lock of the VM (docs/virtualbox.md).
    """

    def __init__(self, program: str, uuid: str) -> None:
        self._program, self._uuid = program, uuid
        self._calls: list[Call] = []
        self.snapshots: list[str] = []

    def do(self, verb: str, becomes: str, since: str) -> str:
        """Pauses or resumes it: why that failed; empty: it did not.

        Done is also what is late, once the VM has another state than `since`, which `becomes` says.
        """
        end, wait = time.monotonic() + _ANSWER_SECONDS, _LATE_SECONDS
        try:
            call = self._call("controlvm", self._uuid, verb)
        except OSError as error:
            return f"VBoxManage cannot be started: {error.strerror}"
        if verb == "pause":  # it may be waiting for the guest: while it is there, others wait, too
            call.overdue = math.inf
        while not call.ended(wait):
            state, moment = self.look(time.monotonic() + 2 * _LATE_SECONDS)
            if state == becomes and moment != since:
                return ""
            if time.monotonic() >= end:
                return _SILENT
            wait *= 2
        return call.failure

    def look(self, until: float = math.inf) -> tuple[str, str]:
        """Its state, and when that changed last; empty where VirtualBox does not say it in time."""
        until = min(until, time.monotonic() + _ANSWER_SECONDS)
        asked = list[Call]()
        while time.monotonic() < until:
            try:
                asked.append(self._call("showvminfo", self._uuid, "--machinereadable"))
            except OSError:
                if not asked:
                    break
            again = time.monotonic() + (_LATE_SECONDS if len(asked) == 1 else _ANSWER_SECONDS)
            while time.monotonic() < min(again, until):
                for call in asked:
                    if call.ended(_POLL_SECONDS):
                        state, moment, snapshots = told_by(call.printed)
                        self.snapshots = snapshots if state else self.snapshots
                        return state, moment
        return "", ""

    def let_go_on(self, moment: str) -> str:
        """Resumes it, if it was paused at this moment: in which state it was until now.

        One that runs, or that somebody has paused at another moment, is left alone. A state that
        passes, as that of a snapshot, is waited for: then it goes back to the pause by itself, at
        another moment. Empty: the state is not known, and nothing keeps it from being resumed.
        """
        end, first, known = time.monotonic() + _PATIENCE_SECONDS, "", self.snapshots
        while True:
            state, now = self.look()
            changed = moment not in ("", now)
            first = first or ("changed" if state and changed else state)
            changed = changed and self.snapshots == known
            if state in _LASTING and (state != "paused" or changed):
                return first
            if state in ("", "paused") and not self.do("resume", "running", now):
                return first
            if time.monotonic() >= end:
                sys.exit(1)  # the note stays: the next tick goes on
            if state != "paused":
                time.sleep(_RETRY_SECONDS)
            if state and state not in _LASTING:
                moment = ""

    def _call(self, *words: str) -> Call:
        self._calls = [each for each in self._calls if not each.ended()]
        self._calls.append(Call([self._program, *words]))
        return self._calls[-1]


def told_by(text: str) -> tuple[str, str, list[str]]:
    """State of a VM, its moment, and its snapshots; empty where VBoxManage does not print that."""
    state, moment = (
        re.search(rf'^{key}="([^"]*)"$', text, re.MULTILINE)
        for key in ("VMState", "VMStateChangeTime")
    )
    snapshots = re.findall(r'^\w*SnapshotUUID[-\d]*="[^"]*"$', text, re.MULTILINE)
    return (state[1], moment[1], snapshots) if state and moment else ("", "", [])


def main(uuid: str, seconds: float, note: str, program: str) -> None:
    """See above."""
    guest = Guest(program, uuid)
    before, since = guest.look()
    say("ready")
    if heard(None) != "pause":
        return
    if before != "running":
        say(f"refused {f'it is {before}' if before else _SILENT}")
        return
    end = time.monotonic() + seconds - _RESUME_SECONDS
    try:
        write(note, "")
    except OSError as error:
        say(f"refused no note can be written: {error.strerror}")
        return
    refused = guest.do("pause", "paused", since)
    state, moment = guest.look(end)
    answer = "late"
    if refused:
        answer = f"refused {refused}"
    elif state == "paused":
        with contextlib.suppress(OSError):
            write(note, "\n".join([moment, *guest.snapshots, ""]))
        say("paused")
        answer = {"release": "held", None: "late"}.get(heard(end), "gone")
    elif state:
        answer = "refused it was resumed at once"
    ours = state in ("", "paused") and moment != since and _THEIRS not in refused
    until = guest.let_go_on(moment) if ours or not refused else ""
    answer = "changed" if answer == "held" and until != "paused" else answer
    if until == "paused" or not any(words in refused for words in _OPEN):
        with contextlib.suppress(OSError):
            os.unlink(note)
    say(f"{answer} {moment}" if answer == "held" else answer)


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


def paper() -> IO[bytes]:
    """A file without a name. In memory where there is such: a full disk has no answers."""
    make = getattr(os, "memfd_create", None)
    return os.fdopen(make("answer"), "w+b", 0) if make else tempfile.TemporaryFile(buffering=0)


def write(path: str, text: str) -> None:
    """Adds to a short file, which stays as it is if that fails."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    main(sys.argv[2], float(sys.argv[3]), sys.argv[4], sys.argv[5])
