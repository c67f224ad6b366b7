"""What a worker shows while it works, and what looks like it."""

from collections.abc import Mapping
from typing import Any

import pytest

from worker.progress import passed_on


class Shown:
    """A display that remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def show(self, look: Mapping[str, Any]) -> None:
        self.seen.append(dict(look))

    def ended(self, vm: str, how: str) -> None:
        self.seen.append((vm, how))

    def say(self, line: str) -> None:
        self.seen.append(line)

    def close(self) -> None:
        self.seen.append("closed")


def test_what_a_worker_sends_is_shown() -> None:
    display = Shown()
    assert passed_on('{"progress": {"vm": "web01", "percent": 4}}', display)
    assert passed_on('{"ended": "web01", "how": "copied"}', display)
    assert passed_on('{"summary": "1 copied"}', display)
    assert display.seen == [{"vm": "web01", "percent": 4}, ("web01", "copied"), "1 copied"]


@pytest.mark.parametrize(
    "line",
    [
        "a line",
        '{"progress": 50}',
        '{"progress": {"percent": 50}}',
        '{"progress": {"vm": 1}}',
        '{"ended": null, "how": "x"}',
        '{"summary": {}}',
        '{"progress": ',
    ],
)
def test_what_a_hook_prints_is_passed_on_as_its_line(line: str) -> None:
    display = Shown()
    assert not passed_on(line, display)
    assert display.seen == []
