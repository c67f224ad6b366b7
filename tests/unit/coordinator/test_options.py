"""Options of several commands: moments as people say them, and paths that nobody looks at."""

import os
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from coordinator.options import EXAMPLES, UnseenPath, parse_moment

NOW = datetime(2026, 11, 30, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yesterday", "2026-11-29T00:00:00+00:00"),
        ("Today", "2026-11-30T00:00:00+00:00"),
        ("2 days ago", "2026-11-28T01:30:00+00:00"),
        ("1 week  ago", "2026-11-23T01:30:00+00:00"),
        ("3h", "2026-11-29T22:30:00+00:00"),
        ("5m", "2026-11-30T01:25:00+00:00"),
        ("2 months ago", "2026-10-01T01:30:00+00:00"),
        ("90 minutes", "2026-11-30T00:00:00+00:00"),
        ("2026-11-29", "2026-11-29T00:00:00+00:00"),
        ("2026-11-29 20:00", "2026-11-29T20:00:00+00:00"),
        ("2026-11-29T20:00:00Z", "2026-11-29T20:00:00+00:00"),
        ("2026-11-29T20:00:00+02:00", "2026-11-29T18:00:00+00:00"),
    ],
)
def test_what_is_meant(text: str, expected: str) -> None:
    assert parse_moment(text, NOW).isoformat() == expected


def test_all_examples_are_moments() -> None:
    for example in EXAMPLES.split(", "):
        parse_moment(example, NOW)


@pytest.mark.parametrize("text", ["", "soon", "2 fortnights ago", "-1 days ago", "29.11.2026"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_moment(text, NOW)


@pytest.mark.parametrize("text", ["/mnt/hangs", "x", "-", "a b", "."])
def test_a_path_is_not_looked_at(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A server that hangs would be waited for, before anybody could say that it does."""
    asked, given = list[object](), list[Path]()
    real = os.stat

    def stat(path: object, **how: object) -> object:
        asked.append(path)
        return real(path, **how)  # type: ignore[arg-type]

    @click.command()
    @click.argument("directory", type=UnseenPath())
    def command(directory: Path) -> None:
        given.append(directory)

    monkeypatch.setattr(os, "stat", stat)
    assert CliRunner().invoke(command, ["--", text]).exit_code == 0
    assert given == [Path(text)]
    assert text not in map(str, asked)
