"""The operator's manual as its reader sees it.

The situations of "At three in the morning", and the commands that each tells to run.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

MANUAL: Final = Path(__file__).resolve().parents[2] / "docs" / "operation.md"
_CHAPTER: Final = "At three in the morning"
_PROGRAMS: Final = ("vmbackup-admin ", "vmbackup-lock ", "vmbackup-worker ")


def situations() -> Mapping[str, tuple[str, ...]]:
    """Title -> the commands that stand there, as they stand there.

    Indented lines, and what names a program with a command in the text.
    """
    return {title: (*_indented(text), *_mentioned(text)) for title, text in _sections()}


def told() -> Mapping[str, tuple[str, ...]]:
    """Title -> the commands that the operator is told to run: the indented lines."""
    return {title: _indented(text) for title, text in _sections()}


def _sections() -> Iterator[tuple[str, str]]:
    text = MANUAL.read_text(encoding="utf-8")
    chapter = re.search(rf"^## {_CHAPTER}\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert chapter, f"the manual has no chapter {_CHAPTER!r}"
    parts = re.split(r"^### (.*)\n", chapter[1], flags=re.MULTILINE)[1:]
    return zip(parts[::2], parts[1::2], strict=True)


def _indented(text: str) -> tuple[str, ...]:
    return tuple(
        line.strip().split("   ")[0].split("  #")[0].strip()
        for line in text.split("\n")
        if line.startswith("    ")
    )


def _mentioned(text: str) -> tuple[str, ...]:
    prose = "\n".join(line for line in text.split("\n") if not line.startswith("    "))
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]*)`", prose)]
    return tuple(span for span in spans if span.startswith(_PROGRAMS))
