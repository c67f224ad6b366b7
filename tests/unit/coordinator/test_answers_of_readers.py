"""What the commands that read copies answer to each state of things, which is no crash."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from shared.serving import places
from tests.support import guest_disks
from tests.support.copies import UUID, put_copy
from tests.unit.coordinator.conftest import Operator
from tests.unit.coordinator.test_reading import tree

OLD, NEW = "20261121T000000Z-9", "20261122T203800Z-17"
COMMANDS = {
    "files": ("files", "web"),
    "get": ("files", "web", "/x", "--get", "{here}", "--dry-run"),
    "mount": ("mount", "web", "{here}", "--dry-run"),
    "compare": ("compare", "web", OLD, NEW),
    "compare files": ("compare", "web", OLD, NEW, "--files"),
}


@pytest.fixture
def web(site_with_database: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """A VM with two copies of a disk in which nothing is, and a directory."""
    monkeypatch.setattr(places, "require_fuse", lambda: None)  # nothing is mounted by these tests
    (tmp_path / "image").write_bytes(b"\1" * 65536)
    (tmp_path / "here").mkdir()
    site_with_database.add_vms("web")
    for stamp in (OLD, NEW):
        data = guest_disks.as_copy(tmp_path / "image")
        put_copy(site_with_database.nas / "web", stamp, data)
    return site_with_database


def archived(operator: Operator, _: ExitStack) -> None:
    assert operator.admin("archive", "web").exit_code == 0


def claimed(operator: Operator, stack: ExitStack) -> None:
    operator.claim(stack.enter_context(operator.session()), "web", "prune")


def without_database(operator: Operator, _: ExitStack) -> None:
    operator.json("status")
    shutil.rmtree(operator.vmstate)


def twins(operator: Operator, _: ExitStack) -> None:
    """Copies of two VMs without a record, which both were called `web`."""
    operator.json("status")
    shutil.copytree(operator.nas / "web", operator.nas / "other")
    for sidecar in (operator.nas / "other").glob("*.json"):
        other = UUID.replace("-4", "-5")
        sidecar.write_text(sidecar.read_text("utf-8").replace(UUID, other), "utf-8")
    assert operator.admin("forget", "web").exit_code == 0


def without_copies(operator: Operator, _: ExitStack) -> None:
    for path in (operator.nas / "web").iterdir():
        path.unlink()


def damaged(operator: Operator, _: ExitStack) -> None:
    for path in (operator.nas / "web").glob("*.ova"):
        path.write_bytes(b"no copy at all" * 999)


def nas_away(operator: Operator, _: ExitStack) -> None:
    operator.nas.rename(operator.folder / "away")


#: What becomes of the NAS, and the exit code then; None: that of a copy as it should be.
STATES = (
    (archived, None, ""),
    (claimed, None, ""),
    (without_database, None, ""),
    (twins, 2, "may be 2 things"),
    (without_copies, 1, "no "),
    (damaged, 1, ""),
    (nas_away, 13, "is the NAS mounted there"),
)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state[0].__name__)
def test_each_state_has_an_answer(
    web: Operator,
    name: str,
    state: tuple[Callable[[Operator, ExitStack], None], int | None, str],
    tmp_path: Path,
) -> None:
    words = [word.format(here=tmp_path / "here") for word in COMMANDS[name]]
    change, code, said = state
    usual = web.admin(*words).exit_code
    with ExitStack() as stack:
        change(web, stack)
        before = tree(web.nas / "web")
        result = web.admin(*words)
    if change is without_copies and words[0] == "compare":
        code = 2  # it was asked for copies by their names
    assert result.exit_code == (usual if code is None else code)
    assert said in result.output
    assert "unexpected" not in result.output
    assert tree(web.nas / "web") == before


@pytest.mark.parametrize("name", COMMANDS)
def test_a_vm_that_is_not_there(web: Operator, name: str, tmp_path: Path) -> None:
    words = [word.format(here=tmp_path / "here") for word in COMMANDS[name]]
    words[1] = "nobody"
    refused = web.admin(*words)
    assert (refused.exit_code, "there is no VM 'nobody'" in refused.stderr) == (2, True)
