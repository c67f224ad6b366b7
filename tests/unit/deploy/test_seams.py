"""Tests reach what they replace by arguments and public names: no private name of ours is patched.

A private name may be renamed, moved or done without by whoever works on its module, who does not
look for it in tests. Mutants are meant to break code from outside, and are not looked at.

What is still patched stands here by name. A name that is not patched any more is a failure, too:
so the list only gets shorter.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PATCHED: set[str] = set()

#: `setattr(module, "_name", …)` and `patch.object(module, "_name", …)`, however it is broken.
SET = re.compile(r"\b(?:setattr|delattr|object)\(\s*([\w.()\[\]]+),\s*[\"'](_\w+)[\"']")
#: `setattr(object._name, "public", …)`.
SET_BELOW = re.compile(r"\b(?:setattr|delattr|object)\(\s*([\w.()\[\]]+)\._([a-zA-Z]\w*)[\w.]*,")
#: "module._name", for whatever sets that.
NAMED = re.compile(r"[\"']((?:shared|worker|coordinator|deploy)\.[\w.]*)\.(_\w+)[\w.]*[\"']")
#: `object._name = …`, `object._name.other += …`, and several at once.
ASSIGNED = re.compile(r"^[ \t]*([^=#\"'\n]*\._[a-zA-Z][^=\n]*) [-+*/%|&]?= ", re.MULTILINE)
PRIVATE = re.compile(r"([\w.()\[\]]+)\._([a-zA-Z]\w*)")
OURSELVES = {"self", "cls"}
#: Names of Python itself that are no seam, if one has these.
SPECIAL = re.compile(r"__(?!defaults__|kwdefaults__|code__)\w+__")


def patches(text: str) -> Iterator[str]:
    """The private names that a test sets, whose they are before them."""
    for whose, name in (*SET.findall(text), *NAMED.findall(text)):
        if whose not in sys.stdlib_module_names and not SPECIAL.fullmatch(name):
            yield f"{whose}.{name}"
    set_below = (each for each in SET_BELOW.findall(text))
    assigned = (each for line in ASSIGNED.findall(text) for each in PRIVATE.findall(line))
    for whose, name in (*set_below, *assigned):
        if whose not in OURSELVES:
            yield f"{whose}._{name}"


def patched(root: Path) -> set[str]:
    return {
        f"{module.relative_to(root).as_posix()}: {name}"
        for module in (root / "tests").rglob("*.py")
        if module.name != "mutants.py" and module != Path(__file__)
        for name in patches(module.read_text(encoding="utf-8"))
    }


@pytest.mark.broad
def test_no_private_name_is_patched_but_those_that_are_named() -> None:
    assert patched(ROOT) == PATCHED, "give what it replaces an argument, or take it off the list"


def test_what_is_patched_is_found(tmp_path: Path) -> None:
    found = {
        'monkeypatch.setattr(\n    module, "_SECONDS", 0\n)': "module._SECONDS",
        'monkeypatch.setattr("worker.tick._LAST", 0)': "worker.tick._LAST",
        'settings={"shared.ova.unpacking._LIMIT": 1}': "shared.ova.unpacking._LIMIT",
        'with patch.object(Session, "_end"):': "Session._end",
        'monkeypatch.setattr(places.mounted, "__defaults__", ())': "places.mounted.__defaults__",
        'monkeypatch.setattr(filler._ended, "wait", wait)': "filler._ended",
        "    session._record = replace(session._record, pid=1)": "session._record",
        "self.session._heartbeat = None": "self.session._heartbeat",
        "work._site.clock.sleep = print": "work._site",
        "hedging._left[0].ends = 0": "hedging._left",
        "one, other._two = 1, 2": "other._two",
        "session._sequence += 1": "session._sequence",
    }
    allowed = [
        "self._record = record",
        "self._one, self._two = 1, 2",
        "same = session._record == other._record",
        "before = session._record",
        'monkeypatch.setattr(os, "_exit", end)',
        'monkeypatch.setattr("shared.state.sessions.session.Session.__exit__", end)',
        'monkeypatch.setattr(places, "mounted", partial(places.mounted, table))',
        "call(session._record, name=1)",
    ]
    (tmp_path / "tests").mkdir()
    for module in ("mutants.py", "test_some.py"):
        (tmp_path / "tests" / module).write_text("\n".join([*found, *allowed]))
    assert patched(tmp_path) == {f"tests/test_some.py: {name}" for name in found.values()}
