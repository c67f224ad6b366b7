"""Debian's Chromium, driven by its own chromedriver over plain HTTP (the WebDriver protocol)."""

import base64
import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploy.testbed.nas.packages import testbed_root
from tests.support.packages import locked, require

#: Where axe is got from: a package of Python that has its script and is not installed.
AXE: Final = "axe-playwright-python==0.1.8"
_LIMIT_SECONDS: Final = 60


@dataclass
class Chromium:
    """One window. Everything that a page asks of the network is written down."""

    session: str

    def call(self, path: str, given: Mapping[str, Any] | None = None) -> Any:
        """A command of WebDriver; what it answers."""
        data = None if given is None else json.dumps(given).encode()
        request = urllib.request.Request(f"{self.session}{path}", data=data)
        with urllib.request.urlopen(request, timeout=_LIMIT_SECONDS) as answer:
            return json.loads(answer.read())["value"]

    def run(self, script: str, *arguments: Any) -> Any:
        """Runs a script in the page, which may wait: `await` works, `return` answers."""
        body = f"""
            const done = arguments[arguments.length - 1];
            (async () => {{ {script} }})().then(
                (value) => done({{ value }}), (error) => done({{ error: String(error) }}));
        """
        answer = self.call("/execute/async", {"script": body, "args": list(arguments)})
        assert "error" not in answer, answer
        return answer.get("value")

    def develop(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self.call("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def show(self, path: Path, width: int = 1300, *, dark: bool = False, at: float = 0) -> None:
        """Opens a file, in a window of that width. `at`: seconds that its clock is ahead."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.develop("Emulation.setEmulatedMedia", features=scheme)
        self.develop(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=1000, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        clock = f"const now = Date.now; Date.now = () => now() + {round(1000 * at)};"
        added = self.develop("Page.addScriptToEvaluateOnNewDocument", source=clock)
        self.call("/url", {"url": path.as_uri()})
        self.develop("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])

    def key(self, key: str) -> None:
        """A key that is pressed and let go."""
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self.call("/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.call("/screenshot"))

    def complaints(self) -> list[str]:
        """What the browser has written to its console since the last question."""
        return [entry["message"] for entry in self.call("/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """What pages asked for, and of whom, since the last question.

        Not what the browser's own pages did, such as that of a new tab.
        """
        entries = self.call("/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
            and not message["params"]["documentURL"].startswith("chrome:")
        ]


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Chromium]:
    """A browser without a profile of its own; ended with all that it started."""
    require("chromium", "chromium")
    require("chromedriver", "chromium-driver")
    with (folder / "chromedriver.log").open("wb") as log:
        driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=log, stderr=log)
    try:
        port = _port(folder / "chromedriver.log", driver)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        arguments += [f"--user-data-dir={folder / 'profile'}"]
        wanted = {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        top = Chromium(f"http://127.0.0.1:{port}/session")
        made = top.call("", {"capabilities": {"alwaysMatch": wanted}})
        browser = Chromium(f"{top.session}/{made['sessionId']}")
        try:
            yield browser
        finally:
            urllib.request.urlopen(
                urllib.request.Request(browser.session, method="DELETE"), timeout=_LIMIT_SECONDS
            ).close()
    finally:
        driver.terminate()
        driver.wait(timeout=30)


def _port(log: Path, driver: "subprocess.Popen[bytes]") -> int:
    end = time.monotonic() + _LIMIT_SECONDS
    while not (found := re.search(r"started successfully on port (\d+)", log.read_text())):
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    return int(found[1])


def axe() -> str:
    """The script of axe-core, which finds what hinders people; fetched once by pip."""
    directory = testbed_root() / "axe"
    with locked(directory):
        if not (found := list(directory.glob("*.whl"))):
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--dest", str(directory), AXE], check=True)
            found = list(directory.glob("*.whl"))
    with zipfile.ZipFile(found[0]) as wheel:
        return wheel.read("axe_playwright_python/axe.min.js").decode()
