"""Messages and pings at real servers: bounded, without secrets, and harmless whatever they hold."""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from shared.host.errors import ConfigurationError
from shared.notices import sending
from shared.notices.notice import Notice, harmless
from shared.notices.sender import scrubbed
from tests.support.receivers import mailbox, website

HOSTILE = 'x\r\nBcc: all@evil.example\n\n<b>@everyone</b> [a](http://evil) \u202e\x1b[31m\udce9"'


@pytest.mark.slow
def test_a_message_reaches_a_mail_server_and_a_web_server() -> None:
    message = Notice.of("vmbackup: web01 ä", ["one", "two"], "failure")
    with mailbox() as box, website() as site:
        assert (sending.send(box.url, message), sending.send(site.url, message)) == ("", "")
        (mail,) = box.got
        assert (mail["Subject"], mail["To"]) == ("vmbackup: web01 ä", "admin@host.example")
        (document,) = site.got
        assert (document["title"], document["message"]) == ("vmbackup: web01 ä", "one\ntwo")


@pytest.mark.slow
def test_hostile_names_are_text_and_nothing_else() -> None:
    message = Notice.of(HOSTILE, [HOSTILE])
    with mailbox() as box:
        assert sending.send(box.url, message) == ""
        (mail,) = box.got
    assert mail["Bcc"] is None
    assert mail.defects == []
    said = f"{mail['Subject']}\n{message.title}\n{message.body}"
    for character in "@<>[]\x1b\u202e\r":
        assert character not in said, character
    assert len(said.splitlines()) == 3


def test_a_message_is_bounded() -> None:
    message = Notice.of("t" * 1000, ["l" * 10000] * 1000)
    assert len(message.title) == 120
    assert len(message.body) < 51 * 402
    assert message.body.endswith("950 lines more: vmbackup-admin notify")
    assert harmless("a", 1) == "a"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("json://user:hunter2@127.0.0.1:1/hunter3", "A Connection error occurred"),
        ("no URL, hunter2", "Apprise does not understand its URL"),
        ("mailto://user:hunter2@127.0.0.1:1?to=a@b.example&from=c@d.example", "onnection"),
    ],
)
@pytest.mark.slow
def test_what_goes_wrong_is_said_without_the_secret(
    url: str, problem: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said = sending.send(url, Notice.of("a", ["b"]))
    assert problem in said
    printed = capfd.readouterr()
    assert "hunter" not in said + printed.out + printed.err


def test_what_is_said_of_a_url_has_no_part_of_it() -> None:
    url = "slack://to%2Fken:hunter2@host.example/path?key=hunter3"
    for text in ("at host.example/path", "to/ken", "to%2Fken", "key=hunter3", url):
        assert not {"hunter", "host", "ken", "path"} & set(
            scrubbed(text, url).replace("***", " ").replace("/", " ").split()
        )


@pytest.fixture
def silent_server():
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for connection in held:
            connection.close()


@pytest.mark.broad
def test_a_server_that_says_nothing_is_given_up_in_time(
    silent_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sending.MESSAGE_SECONDS + sending.END_SECONDS <= 20
    assert sending.PING_SECONDS + sending.END_SECONDS <= 10
    monkeypatch.setattr(sending, "MESSAGE_SECONDS", 2.5)
    began = time.monotonic()
    url = f"json://hunter2@127.0.0.1:{silent_server}/x?cto=60&rto=60"
    assert "did not answer within" in sending.send(url, Notice.of("a", ["b"]))
    assert time.monotonic() - began < 5


@pytest.mark.broad
def test_the_secret_is_in_no_process_list(
    silent_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PING_SECONDS", 3.0)
    done: list[str] = []
    url = f"http://127.0.0.1:{silent_server}/hunter2"
    thread = threading.Thread(target=lambda: done.append(sending.ping(url)))
    thread.start()
    end, seen = time.monotonic() + 8, ""
    while time.monotonic() < end and "shared.notices.sender" not in seen:
        seen = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
        time.sleep(0.05)
    assert "shared.notices.sender" in seen
    assert "hunter2" not in seen
    thread.join(15)
    assert done
    assert "hunter2" not in done[0]


@pytest.mark.slow
def test_pings_in_the_way_of_healthchecks() -> None:
    with website() as site:
        assert sending.ping(f"{site.ping}/", "start") == ""
        assert sending.ping(f"{site.ping}?a=1") == ""
        assert sending.ping(site.ping, "fail", "last\nlines ä") == ""
        assert site.pings == [
            ("/uuid/start", ""),
            ("/uuid?a=1", ""),
            ("/uuid/fail", "last\nlines ä"),
        ]
        site.status = 503
        assert sending.ping(site.ping) == "it answered 503"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "hunter2"])
def test_a_ping_goes_to_the_web_only(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        sending.ping(url)
    assert caught.value.message == "ping.url: must begin with http:// or https://"


def test_without_the_package_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError) as caught:
        sending.require_apprise()
    assert "pip install" in caught.value.hint


@pytest.mark.slow
def test_what_is_sent_is_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with website() as site:
        assert sending.send(site.url, Notice.of("a", ["b"])) == ""
    assert list(tmp_path.rglob("*")) == []
