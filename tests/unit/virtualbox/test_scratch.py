"""Which machines provably are ours, and which folders may be removed."""

from pathlib import Path

import pytest

from shared.host.errors import VBoxManageError
from shared.virtualbox import scratch
from shared.virtualbox.inventory import Machine
from shared.virtualbox.scratch import Mark

NAME = f"vmbackup-{'0' * 32}"
UUID = "11111111-2222-4333-8444-555555555555"


def machine(folder: Path, uuid: str = UUID, name: str | None = NAME) -> Machine:
    return Machine(uuid, name, str(folder / NAME / f"{NAME}.vbox"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of ours."""
    made = tmp_path / NAME
    scratch.make(made, Mark(NAME, UUID))
    return made


def test_the_machine_that_the_mark_names_is_ours_and_no_other(folder: Path) -> None:
    assert scratch.is_scratch(machine(folder))
    assert scratch.is_scratch(machine(folder, name="renamed"))
    assert scratch.is_scratch(machine(folder / "a group"))
    assert not scratch.is_scratch(machine(folder, uuid="99999999-2222-4333-8444-555555555555"))
    assert not scratch.is_scratch(machine(folder.parent.parent))


def test_as_long_as_there_is_no_uuid_the_name_counts(tmp_path: Path) -> None:
    made = tmp_path / f"vmbackup-rehearsal-{'1' * 32}"
    scratch.make(made, Mark(NAME))
    assert scratch.is_scratch(machine(made))
    assert not scratch.is_scratch(machine(made, name="another"))
    scratch.write_mark(made, Mark(NAME, UUID))
    assert not scratch.is_scratch(machine(made, uuid="99999999-2222-4333-8444-555555555555"))


@pytest.mark.parametrize(
    "mark",
    [
        "",
        "{",
        "[]",
        "null",
        '{"name": 1, "uuid": ""}',
        '{"name": "", "uuid": ""}',
        '{"name": "x"}',
        "\\xff",
        "[" * 4000,
        "NaN",
    ],
)
def test_a_mark_that_is_none_proves_nothing(tmp_path: Path, mark: str) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / scratch.MARK).write_text(mark)
    assert scratch.mark_of(tmp_path / NAME) is None
    assert not scratch.is_scratch(machine(tmp_path / NAME))
    with pytest.raises(VBoxManageError, match="has no mark"):
        scratch.remove(tmp_path / NAME, NAME)


def test_a_link_in_the_place_of_folder_or_mark_is_not_followed(
    folder: Path, tmp_path: Path
) -> None:
    link = tmp_path / f"vmbackup-{'2' * 32}"
    link.symlink_to(folder)
    assert scratch.mark_of(link) is None
    with pytest.raises(VBoxManageError):
        scratch.remove(link, NAME)
    third = tmp_path / f"vmbackup-{'3' * 32}"
    third.mkdir()
    (third / scratch.MARK).symlink_to(folder / scratch.MARK)
    assert scratch.mark_of(third) is None
    assert (folder / scratch.MARK).exists()


def test_what_a_link_in_our_folder_points_to_stays(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (folder / "link").symlink_to(precious)
    (folder / "Logs").mkdir()
    (folder / "Logs" / "link").symlink_to(precious)
    scratch.remove(folder, NAME)
    assert (folder.exists(), (precious / "file").exists()) == (False, True)


def test_a_folder_that_was_made_for_another_machine_stays(folder: Path) -> None:
    with pytest.raises(VBoxManageError, match="was made for"):
        scratch.remove(folder, "another")
    assert (folder / scratch.MARK).exists()


def test_disks_that_virtualbox_did_not_make_there_keep_the_folder(folder: Path) -> None:
    snapshots = folder / NAME / "Snapshots"
    snapshots.mkdir(parents=True)
    (snapshots / f"{{{UUID}}}.vdi").write_text("ours")
    (snapshots / "mine.vdi").write_text("theirs")
    with pytest.raises(VBoxManageError, match=r"mine\.vdi was put into a folder"):
        scratch.remove(folder, NAME)
    assert (snapshots / f"{{{UUID}}}.vdi").exists()
    scratch.remove(folder, NAME, known=[f"{NAME}/Snapshots/mine.vdi"])
    scratch.remove(folder, NAME)
    assert not folder.exists()


def test_an_empty_folder_whose_maker_died_before_the_mark_is_removed(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / f"{scratch.MARK}.new").write_text("{")
    scratch.remove(tmp_path / NAME, NAME)
    assert not (tmp_path / NAME).exists()
