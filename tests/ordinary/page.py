"""The operator's manual as its reader sees it: the situations of "At three in the morning", and the commands that each tells to run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

MANUAL: Final = Path(__file__).resolve().parents[2] / "docs" / "operation.md"
_CHAPTER: Final = "At three in the morning"
_PROGRAMS: Final = ("vmbackup-admin ", "vmbackup-lock ", "vmbackup-worker ")


def situations() -> Mapping[str, tuple[str, ...]]:
    """Title -> the commands that stand there, as they stand there: indented lines, and what names a program with a command in the text."""
    text = MANUAL.read_text(encoding="utf-8")
    chapter = re.search(rf"^## {_CHAPTER}\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert chapter, f"the manual has no chapter {_CHAPTER!r}"
    parts = re.split(r"^### (.*)\n", chapter[1], flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], map(_commands, parts[1::2]), strict=True))


def _commands(text: str) -> tuple[str, ...]:
    lines = [line.strip().split("   ")[0].split("  #")[0].strip() for line in text.split("\n") if line.startswith("    ")]
    prose = "\n".join(line for line in text.split("\n") if not line.startswith("    "))
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]*)`", prose)]
    return tuple(dict.fromkeys([*lines, *(span for span in spans if span.startswith(_PROGRAMS))]))
