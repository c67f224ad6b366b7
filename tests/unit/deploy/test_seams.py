"""Tests reach what they replace or read by arguments and public names: no private name of ours.

A private name may be renamed, moved or done without by whoever works on its module, who does not
look for it in tests. Mutants are meant to break code from outside, and are not looked at.

What is still patched or read stands here by name. A name that is not any more is a failure, too: so
the lists only get shorter.
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PATCHED: set[str] = set()
READ: set[str] = set()

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


def looked_at(root: Path) -> Iterator[tuple[str, str]]:
    """The modules below `tests` that are looked at, and their text."""
    for module in (root / "tests").rglob("*.py"):
        if module.name != "mutants.py" and module != Path(__file__):
            yield module.relative_to(root).as_posix(), module.read_text(encoding="utf-8")


def patched(root: Path) -> set[str]:
    return {f"{module}: {name}" for module, text in looked_at(root) for name in patches(text)}


PRODUCT = ("shared", "worker", "coordinator", "deploy")
PRIVATE_NAME = re.compile(r"_[A-Za-z]\w*")
_OTHERS = r"(?<!\bself)(?<!\bcls)\._[A-Za-z]|\bimport\b[^\n]*\b_[A-Za-z]"
#: Only what has one of these is worth a closer look.
POSSIBLE = re.compile(rf"{_OTHERS}|^ +_\w+(?: as \w+)?,$|[\"']_\w+[\"']", re.MULTILINE)
#: In code that is a string: `module._name`, `import _name`.
IN_CODE = re.compile(r"(?:(?<!\bself)(?<!\bcls)\.|\bimport )(_[A-Za-z]\w*)\b")
#: Public, though they begin with an underscore: what each `NamedTuple` has, `_make` its class.
OF_TUPLES = re.compile(r".*\._(?:replace|asdict|fields|field_defaults)|(?:.*\.)?[A-Z]\w*\._make")


NO_SEAM = OURSELVES | sys.stdlib_module_names


def defined(tree: ast.AST) -> set[str]:
    """The private names that a module gives to something: a function, a variable, a part of it."""
    found = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) in OURSELVES
        ):
            found.add(node.attr)
    return {name for name in found if PRIVATE_NAME.fullmatch(name)}


@cache
def of_product(root: Path) -> frozenset[str]:
    """The private names of the programs."""
    modules = (module for room in PRODUCT for module in (root / room).rglob("*.py"))
    return frozenset().union(*(defined(ast.parse(module.read_bytes())) for module in modules))


def foreign(tree: ast.AST) -> set[str]:
    """The names by which a test has modules of the programs, and what is in these."""
    return {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (getattr(node, "module", "") or alias.name).partition(".")[0] in PRODUCT
    }


def reads(tree: ast.AST) -> Iterator[str]:
    """The private names of others that a test imports or reads."""
    own, not_own = defined(tree), foreign(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (
                f"{node.module}.{alias.name}"
                for alias in node.names
                if PRIVATE_NAME.fullmatch(alias.name)
            )
        elif isinstance(node, ast.Attribute) and PRIVATE_NAME.fullmatch(node.attr):
            whose = ast.unparse(node.value)
            ours = node.attr in own and whose.partition(".")[0] not in not_own
            name = f"{whose}.{node.attr}"
            if not ours and whose not in NO_SEAM - not_own and not OF_TUPLES.fullmatch(name):
                yield name


def in_strings(tree: ast.AST, product: frozenset[str]) -> Iterator[str]:
    """Those of the programs that are in code that is a string, or one by themselves."""
    names = product - defined(tree)
    parts = {
        part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            whole = () if node in parts else (node.value,)
            found = names.intersection((*whole, *IN_CODE.findall(node.value)))
            yield from (f"{name} in a string" for name in found)


def read(root: Path) -> set[str]:
    return {
        f"{module}: {name}"
        for module, text in looked_at(root)
        if POSSIBLE.search(text)
        for tree in [ast.parse(text)]
        for name in (*reads(tree), *in_strings(tree, of_product(root)))
    }


@pytest.mark.broad
def test_no_private_name_is_patched_but_those_that_are_named() -> None:
    assert patched(ROOT) == PATCHED, "give what it replaces an argument, or take it off the list"


@pytest.mark.broad
def test_no_private_name_is_read_but_those_that_are_named() -> None:
    assert read(ROOT) == READ, (
        "test what can be seen from outside, make it public with a contract, or give it as an "
        "argument; what is not read any more: take it off the list"
    )


def test_what_is_read_is_found(tmp_path: Path) -> None:
    found = {
        "from shared.site import _opened": "shared.site._opened",
        "from tests.simulated.test_backup import _expire": "tests.simulated.test_backup._expire",
        "assert module._SECONDS == 1": "module._SECONDS",
        "session.heart._thread.join(5)": "session.heart._thread",
        "before = made()._record": "made()._record",
        "list(of[0]._left)": "of[0]._left",
        "self.session._record": "self.session._record",
        "from shared.site import (\n    _Shut,\n)": "shared.site._Shut",
        "site._own()": "site._own",
        "lease()._make()": "lease()._make",
        "world.own._own()": "world.own._own",
        'PROGRAM = f"""\nfrom shared import site\nsite._opened({1})"""': "_opened in a string",
        'CODE = "from shared.site import _opened, clock"': "_opened in a string",
        'point = ("shared.site", "_opened", 0)': "_opened in a string",
        'name = "shared.site._opened"': "_opened in a string",
    }
    allowed = [
        "from shared import site",
        "from shared.state.world import world",
        "from itertools import count as _count",
        "def _own(): ...",
        "self._record.start()",
        "here._own()",
        "os._exit(0)",
        "world._replace(number=1)",
        "world.Columns._make([1])",
        "module.__name__",
        "_count(1)",
        'name = "_dash"',
        'file = "of_opened.py"',
        'file = f"{1}_opened"',
        'CODE = "self._opened = 1"',
    ]
    for folder in ("shared", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "shared" / "site.py").write_text("class Site:\n    def _opened(self): ...")
    for module in ("mutants.py", "test_some.py"):
        (tmp_path / "tests" / module).write_text("\n".join([*allowed, *found]))
    assert read(tmp_path) == {f"tests/test_some.py: {name}" for name in found.values()}


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
