"""A mail server and a web server on the loopback, which keep what they get."""

import contextlib
import email
import email.policy
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Smtp(socketserver.StreamRequestHandler):
    """One connection of a mail program: enough of SMTP for a message without encryption."""

    server: "_SmtpServer"

    def handle(self) -> None:
        self._say("220 loopback")
        for line in self.rfile:
            word = line.split(b":")[0].split()[:1]
            match word[0].upper() if word else b"":
                case b"DATA":
                    self._say("354 go on")
                    self._take()
                case b"QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 fine")

    def _take(self) -> None:
        lines: list[bytes] = []
        for line in self.rfile:
            if line.rstrip() == b".":
                break
            lines.append(line.removeprefix(b"."))
        self.server.got.append(b"".join(lines))
        self._say("250 taken")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class _SmtpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Smtp)
        self.got: list[bytes] = []


@dataclass
class Mailbox:
    """What the mail server got."""

    server: _SmtpServer

    @property
    def url(self) -> str:
        port = self.server.server_address[1]
        return f"mailto://127.0.0.1:{port}?from=vmbackup@host.example&to=admin@host.example"

    @property
    def got(self) -> list[EmailMessage]:
        return [
            email.message_from_bytes(data, policy=email.policy.default)  # type: ignore[misc]
            for data in self.server.got
        ]


@contextlib.contextmanager
def mailbox() -> Iterator[Mailbox]:
    """A real mail server."""
    with _SmtpServer() as server, _serving(server):
        yield Mailbox(server)


@dataclass
class Website:
    """What the web server got. It answers `status`, after `delay` seconds."""

    status: int = 200
    delay: float = 0.0
    port: int = 0
    requests: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.port}/hook"

    @property
    def ping(self) -> str:
        return f"http://127.0.0.1:{self.port}/uuid"

    @property
    def got(self) -> list[Any]:
        """The messages, as JSON."""
        return [json.loads(body) for path, body in self.requests if path == "/hook"]

    @property
    def pings(self) -> list[tuple[str, str]]:
        return [(path, body.decode()) for path, body in self.requests if path != "/hook"]


@contextlib.contextmanager
def website() -> Iterator[Website]:
    """A real web server."""
    site = Website()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            if site.status < 400:
                site.requests.append((self.path, body))
            time.sleep(site.delay)
            self.send_response(site.status)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, _serving(server):
        site.port = server.server_address[1]
        yield site


@contextlib.contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(5)
