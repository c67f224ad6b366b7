"""Modules and functions stay of a size that is read at once: see the rules in docs/development.md.

What is still larger stands here by name. A name that is not larger any more is a failure, too: so
these lists only get shorter.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODULE_LINES = 250
FUNCTION_LINES = 40

LARGER_MODULES: set[str] = set()
LARGER_FUNCTIONS: set[str] = set()


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
