"""Commands that go by records, asked about copies of which no record tells."""

import pytest

from shared.host.errors import ExitCode
from tests.support.copies import put_copy
from tests.unit.coordinator.conftest import Operator, uuid
from tests.unit.coordinator.test_reading import tree

OLD, NEW = "20261122T203800Z-17", "20261123T203800Z-20"


@pytest.fixture
def forgotten(site_with_database: Operator) -> Operator:
    """Two copies of a VM that was called web, and another VM with a record."""
    operator = site_with_database
    operator.add_vms("mail")
    for stamp in (OLD, NEW):
        put_copy(operator.nas / "web", stamp, uuid=uuid(7), vm="web", node="beta")
    return operator


@pytest.mark.parametrize("by", ["web", uuid(7), "directory"])
def test_show_says_what_there_is(forgotten: Operator, by: str) -> None:
    vm = str(forgotten.nas / "web") if by == "directory" else by
    before = tree(forgotten.nas)
    shown = forgotten.json("show", vm)["vm"]
    assert (shown["name"], shown["virtualbox_name"], shown["node"]) == (uuid(7), "web", "beta")
    assert (shown["status"], shown["verdict"], shown["listed"]) == (None, None, False)
    assert [copy["stamp"] for copy in shown["copies"]] == [OLD, NEW]
    text = forgotten.admin("show", vm).stdout
    assert "no record of the database tells of it" in text
    assert f"vmbackup-admin restore {uuid(7)}" in text
    assert f"{NEW}  " in text
    assert tree(forgotten.nas) == before


def test_what_is_nowhere_is_unknown_to_show_and_prune(forgotten: Operator) -> None:
    for command in ("show", "prune"):
        refused = forgotten.admin(command, "nothing")
        assert refused.exit_code == ExitCode.USAGE, refused.output
        assert "there is no VM 'nothing'" in refused.stderr


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_prune_and_activate_change_nothing_and_say_what_can_be_done(
    forgotten: Operator, more: tuple[str, ...]
) -> None:
    before = tree(forgotten.nas)
    for command, words in (
        ("prune", f"`vmbackup-admin remove {uuid(7)} STAMP`"),
        ("activate", f"`vmbackup-admin restore {uuid(7)}`"),
    ):
        refused = forgotten.admin(command, "web", *more)
        assert refused.exit_code == ExitCode.STATE_REFUSED, (command, refused.output)
        assert f"no record tells of {uuid(7)}" in refused.stderr
        assert words in refused.stderr
    assert tree(forgotten.nas) == before


def test_copies_of_the_same_vm_in_another_directory_are_said_to_be_its(
    forgotten: Operator,
) -> None:
    """Its record tells of another directory; under the name that it had before, too."""
    uuid_of_mail, place = forgotten.record("mail").uuid, forgotten.nas / "saved"
    put_copy(forgotten.nas / "mail", OLD, uuid=uuid_of_mail, vm="mail")
    put_copy(place, OLD, uuid=uuid_of_mail, vm="mail before")
    for command in ("show", "copies"):
        said = forgotten.admin(command, "mail").stderr
        assert f"copies of mail without a record are in {place}" in said, command
        assert "another VM" not in said
    text = forgotten.admin("copies").stdout
    assert "No record of the database tells of these copies" in text
    shown = forgotten.admin("show", str(place)).stdout
    assert "its record, mail, is of another directory" in shown
    assert f"vmbackup-admin restore {place}" in shown
    assert "remove" not in shown
    assert "Taken back" not in shown
