"""Paths of VMs' directories are made in one place, with its guards."""

import ast
from pathlib import Path

import pytest

from shared.copies import directories
from shared.host.configuration import STATE_DIRECTORY
from shared.host.errors import UnusableRecordError
from tests.unit.state.builders import vm

ROOT = Path(__file__).parents[2]
HOMES = {"shared/site.py", "shared/copies/directories.py"}


def joined(source: str) -> list[str]:
    """What is joined to a path with `/` and is the directory that a record names."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Div)
        and isinstance(node.right, ast.Attribute)
        and node.right.attr == "directory"
    ]


@pytest.mark.broad
def test_nobody_else_makes_a_path_of_a_vms_directory() -> None:
    found = {
        str(path.relative_to(ROOT))
        for room in ("shared", "worker", "coordinator")
        for path in (ROOT / room).rglob("*.py")
        if joined(path.read_text(encoding="utf-8"))
    }
    assert found == HOMES


def test_the_search_finds_a_path_that_is_made_by_hand() -> None:
    assert joined("place = nas.mountpoint / record.directory") == [
        "nas.mountpoint / record.directory"
    ]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\0b", STATE_DIRECTORY.upper()])
def test_a_name_that_is_no_directory_of_a_vm_becomes_no_path(name: str) -> None:
    with pytest.raises(UnusableRecordError):
        directories.plain_directory(vm("web01", directory=name))
