"""What is written for people and programs, whatever names others have given to things."""

import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as some

from shared.host.logs import JsonFormatter, TextFormatter
from shared.host.printable import json_line, printable, printable_lines

#: Moves the cursor, turns the text around, ends the line elsewhere, cannot be encoded.
HOSTILE = "web\x1b[2J\u202egpj.exe\u2066\x85\u2028\ud800\r"


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("name", logging.WARNING, "path", 1, message, None, None)
    vars(made).update(fields)
    return made


def test_what_could_deceive_on_a_terminal_is_made_visible() -> None:
    assert printable(HOSTILE) == (r"web\x1b[2J\u202egpj.exe\u2066\x85\u2028\ud800\r")
    assert printable("日本 ünïcode, 'quoted'") == "日本 ünïcode, 'quoted'"
    assert printable_lines("one\x1b\n  two") == "one\\x1b\n  two"


def test_a_line_of_the_text_log_is_printable_and_one_line() -> None:
    line = TextFormatter("program").format(record(f"{HOSTILE}\nforged", vm=HOSTILE))
    first, second = line.split("\n")
    assert first.isprintable()
    assert second == "    forged", "a line of a name cannot look like a line of the log"


def test_a_traceback_is_printable() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        failed = record("failed")
        failed.exc_info = sys.exc_info()
    assert all(line.isprintable() for line in TextFormatter("program").format(failed).split("\n"))


@given(some.text())
def test_a_line_of_the_json_log_is_printable_and_says_the_same(text: str) -> None:
    line = JsonFormatter("program").format(record(text, vm=text))
    assert line.isprintable()
    assert (json.loads(line)["message"], json.loads(line)["vm"]) == (text, text)


@pytest.mark.parametrize("text", [HOSTILE, "\U000e0041", "日本"])
def test_json_is_printable_and_means_the_same(text: str) -> None:
    assert json_line({"name": text}).isprintable()
    assert json.loads(json_line({"name": text})) == {"name": text}
    assert "日本" in json_line({"name": "日本"})
