"""Runs commands in a cluster machine for the outside: a small server on the control network."""

import base64
import json
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress

from deploy.testbed.nas.configuration import AGENT_PORT


def serve(address: str, ready: Callable[[], None]) -> None:
    """Answers requests, each in a thread of its own, for as long as the machine lives.

    A request is one JSON line `{"command": […], "directory": …, "environment": {…}}`; the answers
    are JSON lines: `{"output": base64}` any number of times, then `{"status": n}`. A caller that
    goes away has its command killed.
    """
    listener = socket.create_server((address, AGENT_PORT), backlog=50)
    ready()
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve_one, args=(connection,), daemon=True).start()


def _serve_one(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        request = json.loads(connection.makefile("rb").readline())
        try:
            process = subprocess.Popen(
                request["command"],
                cwd=request["directory"],
                env={**os.environ, **request["environment"]},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            _answer(connection, output=base64.b64encode(str(error).encode()).decode())
            _answer(connection, status=127)
            return
        try:
            _relay(connection, process)
            _answer(connection, status=process.wait())
        except OSError:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _relay(connection: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    """Sends output until its end. Raises ConnectionError when the caller has gone."""
    assert process.stdout
    while True:
        for readable in select.select([process.stdout.fileno(), connection.fileno()], [], [])[0]:
            if readable == connection.fileno():
                if not connection.recv(1):
                    raise ConnectionError
            else:
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    return
                _answer(connection, output=base64.b64encode(data).decode())


def _answer(connection: socket.socket, **values: str | int) -> None:
    connection.sendall((json.dumps(values) + "\n").encode())
