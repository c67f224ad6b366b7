"""VBoxManage commands that run while the engine works: started, watched, and ended within a bound."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Final, Self, cast

from shared.process import Completed
from shared.virtualbox.problems import ExportError, export_problem
from shared.virtualbox.vboxmanage import VBoxManage, cannot_start

#: A command that does not obey is not waited for any longer than this.
END_SECONDS: Final = 60.0

_MOST_MESSAGES: Final = 2**16

#: Runs its arguments, and terminates them when its standard input ends: a worker that is killed closes it, whatever kills it.
#: It waits until they catch TERM: VBoxManage does so some milliseconds after VirtualBox has begun to export, and would before that die of
#: it, which leaves VirtualBox exporting to the end (measured: every second export that was cancelled at its first disk).
_GUARD: Final = """
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
obeys() {
    [ -r "/proc/$child/status" ] || { sleep 1; return 0; }
    while read -r key caught; do
        [ "$key" = SigCgt: ] && [ $((0x${caught#????????????} & 0x4000)) -ne 0 ] && return 0
    done <"/proc/$child/status"
    return 1
}
{ read -r nothing; n=0; until obeys || [ $n -ge 500 ]; do sleep 0.01; n=$((n + 1)); done; kill -TERM "$child"; } <&3 >/dev/null 2>&1 &
guard=$!
wait "$child"; status=$?
kill "$guard" 2>/dev/null
exit "$status"
"""


class Child:
    """A VBoxManage command in the background, standard input closed. Its messages are kept in a file that has no name."""

    def __init__(self, vboxmanage: VBoxManage, arguments: Sequence[str], *, guarded: bool = False) -> None:
        """Starts the command. `guarded`: it is terminated, not killed, when this process dies. Raises `VBoxManageError`."""
        self.arguments = tuple(arguments)
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        command = [vboxmanage.program, *arguments]
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "guard", *command] if guarded else command,
                stdin=subprocess.PIPE if guarded else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._messages,
                env={**os.environ, **vboxmanage.environment},
                start_new_session=True,
            )
        except OSError as error:
            self._messages.close()
            raise cannot_start(vboxmanage.program, error) from None
        self._output = cast("IO[bytes]", self._process.stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def output(self) -> int:
        """The descriptor of its standard output."""
        return self._output.fileno()

    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_seconds: float) -> int | None:
        """Its exit status; None if it still runs after so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_seconds)
        return None

    def problem(self, otherwise: str) -> ExportError:
        """Why it failed, as what it wrote to standard error says; `otherwise` if that says nothing."""
        text = self._said()
        if not text.strip():
            return ExportError(otherwise)
        return export_problem(Completed(("VBoxManage", *self.arguments), 1, "", text)) or ExportError(otherwise)

    def finished(self) -> bool:
        """Whether VirtualBox has done all it was asked for. VBoxManage then says so, handles no more signals, and may die of one."""
        return "100%" in self._said()

    def _said(self) -> str:
        self._messages.seek(0)
        return self._messages.read(_MOST_MESSAGES).decode(errors="backslashreplace")

    def terminate(self) -> None:
        """Asks it to end: VBoxManage then cancels what it does in VirtualBox too."""
        if self._process.stdin is not None:
            self._process.stdin.close()  # the guard passes it on
        elif self._process.poll() is None:
            self._process.terminate()

    def end(self) -> None:
        """Ends it: terminates it, and kills it if it does not obey within the bound. Nothing happens if it has ended."""
        self.terminate()
        self._output.close()
        if self.wait(END_SECONDS) is None:
            self._process.kill()
            self.wait(END_SECONDS)
        self._messages.close()
