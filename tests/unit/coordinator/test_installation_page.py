"""docs/installation.md walked through: its commands, as they stand there, do what it says.

Workers are left out: they need VirtualBox. What `deploy/install` does is in tests/unit/deploy.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import Result

from shared.host.errors import ExitCode
from shared.state.states import State
from tests.support.copies import put_copy
from tests.unit.coordinator.conftest import Operator, copy

PAGE = Path(__file__).parents[3] / "docs/installation.md"
STAMP = "20261122T203800Z-17"


def told(section: str) -> list[list[str]]:
    """The commands of a section that are no worker's, as words."""
    text = re.search(
        rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert text, f"there is no section {section}"
    lines = [line.split("  #")[0] for line in text[1].splitlines() if line.startswith("    ")]
    words = [shlex.split(line) for line in lines]
    return [each for each in words if each[0] in ("vmbackup-admin", "vmbackup-lock")]


def follow(operator: Operator, section: str) -> list[Result]:
    """Runs the commands of a section."""
    programs = {"vmbackup-admin": operator.admin, "vmbackup-lock": operator.lock}
    return [programs[program](*arguments) for program, *arguments in told(section)]


@pytest.fixture
def web(site_with_database: Operator) -> Operator:
    """A host with a VM that has a copy."""
    operator = site_with_database
    operator.add_vms("web")
    operator.set("web", status=State.CLEAN, last_copy=copy(STAMP))
    put_copy(operator.nas / "web", STAMP)
    return operator


def test_install_makes_the_database_once(operator: Operator) -> None:
    (done,) = follow(operator, "Install")
    assert done.exit_code == ExitCode.DONE
    assert follow(operator, "Install")[0].exit_code == ExitCode.LOCKED


def test_the_nas_is_moved_to_another_place(web: Operator) -> None:
    before = web.contents
    old = web.nas.rename(web.folder / "old-nas")
    shutil.copytree(old, web.folder / "new-nas")
    web.configure(mountpoint=str(web.folder / "new-nas"))
    results = follow(web, "Move a NAS")
    assert [result.exit_code for result in results] == [0, 0], [r.output for r in results]
    shutil.rmtree(old)
    assert STAMP in web.admin("copies", "web").stdout
    (web.folder / "new-nas").rename(web.nas)
    assert set(web.contents.vms) == set(before.vms)


def test_a_second_host_only_looks(web: Operator) -> None:
    beta = Operator(web.folder, "beta")
    beta.configure()
    (status,) = follow(beta, "Add a host")
    assert status.exit_code == 0
    assert "web" in status.stdout


def test_a_host_is_replaced_under_its_name(web: Operator) -> None:
    assert "alpha" in web.contents.nodes or web.node == "alpha"
    (recovered,) = follow(web, "Replace a host")
    assert recovered.exit_code == 0, recovered.output


def test_a_second_user_has_a_configuration_of_its_own(
    web: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = Operator(web.folder, "bob")
    bob.settings["virtualbox"] = {"vboxmanage": "true"}
    bob.configure()
    monkeypatch.chdir(web.folder)
    assert told("A second user")[0][1:3] == ["--config", "bob.toml"]
    (valid,) = follow(bob, "A second user")
    assert valid.exit_code == 0, valid.output


def test_a_monitoring_user_gets_an_answer(web: Operator) -> None:
    (checked,) = follow(web, "A monitoring user")
    assert (checked.exit_code, checked.stderr) == (3, "")  # no worker has looked here yet
    assert "looked" in checked.stdout
