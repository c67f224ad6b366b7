"""VBoxManage commands that run while the engine works: started, watched, ended within a bound."""

import signal
import tempfile
from collections.abc import Sequence
from typing import IO, Final, Self, cast

from shared.host.processes import ChildProcess, Completed
from shared.virtualbox.export_errors import ExportError, export_problem
from shared.virtualbox.vboxmanage import VBoxManage, cannot_start

#: A command that does not obey is not waited for any longer than this.
END_SECONDS: Final = 60.0

_MOST_MESSAGES: Final = 2**16


class PipedCommand:
    """A VBoxManage command in the background, whose standard output the caller reads.

    Standard input is closed; what it writes to standard error is kept in a file without a name.
    """

    def __init__(self, vboxmanage: VBoxManage, arguments: Sequence[str]) -> None:
        """Starts the command. Raises `VBoxManageError`."""
        self.arguments = tuple(arguments)
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        try:
            self._process = ChildProcess(
                [vboxmanage.program, *arguments],
                environment=vboxmanage.environment,
                stderr=self._messages,
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
        return self._process.wait_at_most(timeout_seconds)

    def problem(self, otherwise: str) -> ExportError:
        """Why it failed, by what it wrote to standard error; `otherwise` if that says nothing."""
        text = self.said()
        if not text.strip():
            return ExportError(otherwise)
        return export_problem(
            Completed(("VBoxManage", *self.arguments), 1, "", text)
        ) or ExportError(otherwise)

    def said(self) -> str:
        """What it has written to standard error.

        Only to be asked once it has ended: it writes where this reads.
        """
        self._messages.seek(0)
        return self._messages.read(_MOST_MESSAGES).decode(errors="backslashreplace")

    def end(self) -> None:
        """Terminates it, which makes VBoxManage cancel what it does in VirtualBox.

        Kills it if it does not obey within the bound. Does nothing if it has ended.
        """
        self._process.send(signal.SIGTERM)
        self._output.close()  # it may wait for a reader
        self._process.end(END_SECONDS, alone=True)
        self._messages.close()
