"""Modules and functions stay of a size that is read at once: see the rules in docs/development.md.

What is still larger stands here by name. A name that is not larger any more is a failure, too: so
these lists only get shorter. A small module that one other module uses moves in there, or stands
here with the reason why not.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODULE_LINES = 250
FUNCTION_LINES = 40
SMALL_LINES = 50

LARGER_MODULES: set[str] = set()
LARGER_FUNCTIONS: set[str] = set()

IMPORT = re.compile(
    r"^ *from (?P<room>(?:coordinator|worker|shared)[\w.]*) import (?P<names>\([^)]*\)|.*)$",
    re.MULTILINE,
)

#: One module a command, an area of `doctor`, a program, a worker.
SERIES = ("coordinator/commands/", "coordinator/doctor/", "coordinator/lock.py")
SMALL_MODULES = {
    "coordinator/booting/ending.py": "how a server ends, apart from how it serves",
    "coordinator/status_warnings.py": "the command has no room for it",
    "shared/export/links.py": "facts of VirtualBox about one image and its parent",
    "shared/host/end_with_parent.py": "a program: what it starts ends with it",
    "shared/nas/probe.py": "a program: it may hang at the NAS",
    "shared/reports/page/forecast.py": "a sentence that is tested without a page",
    "shared/serving/mount_table.py": "what the kernel says, apart from what is ours of it",
    "shared/state/sessions/silence.py": "works without a database",
    "shared/state/store/lease_marker.py": "a file of its own on the NAS",
    "shared/state/store/stand_in.py": "a database that is none",
    "shared/state/store/turn.py": "a lock of this host, which the lease does not need",
    "shared/tasks/suspicion.py": "a rule that the design names",
    "worker/backup/interruption.py": "what a signal does, apart from the round",
    "worker/backup/refused.py": "one reason to leave a VM out, with what must be read for it",
    "worker/metrics.py": "imported where a file of metrics is wanted",
}


def modules(root: Path) -> Iterator[Path]:
    for room in ("coordinator", "worker", "shared", "deploy"):
        yield from sorted((root / room).rglob("*.py"))


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many lines its code has: arguments and the docstring are no code."""
    code = function.body[ast.get_docstring(function) is not None :]
    return (code[-1].end_lineno or 0) - code[0].lineno + 1 if code else 0


def larger_modules(root: Path, limit: int = MODULE_LINES) -> set[str]:
    return {
        module.relative_to(root).as_posix()
        for module in modules(root)
        if len(module.read_text(encoding="utf-8").splitlines()) > limit
    }


def larger_functions(root: Path, limit: int = FUNCTION_LINES) -> set[str]:
    return {
        f"{module.relative_to(root).as_posix()}:{node.name}"
        for module in modules(root)
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_of(node) > limit
    }


def users_of(root: Path) -> Mapping[str, set[str]]:
    """The modules of the product that name each of its modules in an import."""
    found: dict[str, set[str]] = {}
    for module in modules(root):
        name = module.relative_to(root).as_posix()
        for line in IMPORT.finditer(module.read_text(encoding="utf-8")):
            room = line["room"].replace(".", "/")
            for each in re.findall(r"\w+", line["names"]):
                found.setdefault(f"{room}/{each}.py", set()).add(name)
            found.setdefault(f"{room}.py", set()).add(name)
    return found


def small_modules(root: Path, limit: int = SMALL_LINES) -> set[str]:
    """Modules of fewer lines that not even two others use, and that are none of a series."""
    users = users_of(root)
    return {
        name
        for module in modules(root)
        if not (name := module.relative_to(root).as_posix()).startswith(("deploy/", *SERIES))
        and module.name not in ("__init__.py", "__main__.py")
        and len(module.read_text(encoding="utf-8").splitlines()) < limit
        and len(users.get(name, ())) < 2
    }


def test_a_small_module_moves_in_with_its_neighbour() -> None:
    assert small_modules(ROOT) == set(SMALL_MODULES), "move it in, or say why it stands by itself"


def test_no_module_is_larger_but_those_that_are_named() -> None:
    assert larger_modules(ROOT) == LARGER_MODULES, "split it by subject, or take it off the list"


@pytest.mark.broad
def test_no_function_is_larger_but_those_that_are_named() -> None:
    assert larger_functions(ROOT) == LARGER_FUNCTIONS, "split it, or take it off the list"


def test_what_is_larger_is_found(tmp_path: Path) -> None:
    for room in ("worker", "tests"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "long.py").write_text(
            'def short():\n    """Its contract.\n\n    On three lines."""\n    return 1\n\n\n'
            "class Some:\n    def long(self):\n        a = 1\n        return a\n"
        )
    assert larger_functions(tmp_path, 1) == {"worker/long.py:long"}
    assert larger_functions(tmp_path, 2) == set()
    assert larger_modules(tmp_path, 10) == {"worker/long.py"}
    assert larger_modules(tmp_path, 11) == set()


def test_what_is_small_is_found(tmp_path: Path) -> None:
    (tmp_path / "worker").mkdir()
    for name, text in {
        "alone": "",
        "used": "",
        "twice": "",
        "one": "from worker.used import (\n    a,\n)\nfrom worker import twice, other\n",
        "other": "def some() -> None:\n    from worker import one\n    from worker.twice import b",
    }.items():
        (tmp_path / "worker" / f"{name}.py").write_text(text)
    assert small_modules(tmp_path) == {
        f"worker/{each}.py" for each in ("alone", "used", "one", "other")
    }
    assert small_modules(tmp_path, 3) == {"worker/alone.py", "worker/used.py"}
