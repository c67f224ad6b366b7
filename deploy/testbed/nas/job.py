"""A command that runs in a cluster machine, seen from outside."""

import base64
import json
import socket
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from deploy.testbed.nas.configuration import AGENT_PORT


class Job:
    """Ends with the context: a command that still runs then is killed."""

    def __init__(
        self, address: str, command: Sequence[str], directory: str, environment: Mapping[str, str]
    ) -> None:
        self._socket = socket.create_connection((address, AGENT_PORT), 10)
        self._unread = b""
        self._output = b""
        self._status: int | None = None
        request = {
            "command": list(command),
            "directory": directory,
            "environment": dict(environment),
        }
        self._socket.sendall((json.dumps(request) + "\n").encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def output(self) -> str:
        """What the command has printed, as far as a wait has read it."""
        return self._output.decode("utf-8", errors="replace")

    def wait(self, timeout_seconds: float) -> int:
        """Waits for the end of the command, and returns its status; -1 if its machine died.

        Raises TimeoutError with the output so far; the command goes on.
        """
        end = time.monotonic() + timeout_seconds
        while self._status is None:
            self._receive(end)
        return self._status

    def wait_for(self, text: str, timeout_seconds: float) -> None:
        """Waits until the command has printed `text`.

        Raises TimeoutError; AssertionError if it ends without.
        """
        end = time.monotonic() + timeout_seconds
        while text not in self.output:
            if self._status is not None:
                raise AssertionError(
                    f"ended with status {self._status} before it printed {text!r}:\n{self.output}"
                )
            self._receive(end)

    def kill(self) -> None:
        """Kills the command and the processes of its session.

        Also forgets a command whose machine is gone.
        """
        self._socket.close()

    def _receive(self, end: float) -> None:
        self._socket.settimeout(max(0.001, end - time.monotonic()))
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise TimeoutError(f"still running; its output so far:\n{self.output}") from None
        except ConnectionResetError:
            data = b""
        if not data:
            self._status = -1
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, answer: dict[str, Any]) -> None:
        if "output" in answer:
            self._output += base64.b64decode(answer["output"])
        else:
            self._status = int(answer["status"])
