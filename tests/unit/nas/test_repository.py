import os

import pytest

from shared.host.configuration import Nas
from shared.host.errors import ConfigurationError, NasError
from shared.nas import repository

ONE, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


def nas(path, **changes):
    return Nas(**{"mountpoint": path, "require_mount": False, **changes})


def test_the_first_repository_is_remembered_and_another_is_refused(tmp_path):
    notes = tmp_path / "state" / "notes"
    repository.check_repository(nas(tmp_path), notes, None)
    assert repository.known_repository(nas(tmp_path), notes) is None
    repository.check_repository(nas(tmp_path), notes, ONE)
    repository.check_repository(nas(tmp_path), notes, ONE)
    assert repository.known_repository(nas(tmp_path), notes) == ONE
    with pytest.raises(NasError, match=f"holds the repository {OTHER}") as caught:
        repository.check_repository(nas(tmp_path), notes, OTHER)
    assert "`vmbackup-admin statedb accept`" in caught.value.hint
    repository.accept_repository(nas(tmp_path), notes, OTHER)
    repository.check_repository(nas(tmp_path), notes, OTHER)


def test_a_repository_that_is_accepted_keeps_what_is_known_of_its_archive_and_none_is_forgotten(
    tmp_path,
):
    notes = tmp_path / "notes"
    repository.check_repository(nas(tmp_path), notes, ONE)
    repository.note_archive(nas(tmp_path), notes)
    repository.accept_repository(nas(tmp_path), notes, ONE)
    assert repository.is_archive_noted(nas(tmp_path), notes)
    repository.accept_repository(nas(tmp_path), notes, OTHER)
    assert not repository.is_archive_noted(nas(tmp_path), notes)
    for _ in range(2):
        repository.accept_repository(nas(tmp_path), notes, None)
        assert repository.known_repository(nas(tmp_path), notes) is None


def test_an_emptied_mount_point_is_noticed(tmp_path):
    repository.check_repository(nas(tmp_path), tmp_path / "notes", ONE)
    with pytest.raises(NasError, match="holds no state database"):
        repository.check_repository(nas(tmp_path), tmp_path / "notes", None)


def test_each_mount_point_has_a_note_of_its_own(tmp_path):
    repository.check_repository(nas(tmp_path / "a"), tmp_path / "notes", ONE)
    repository.check_repository(nas(tmp_path / "b"), tmp_path / "notes", OTHER)
    repository.check_repository(nas(tmp_path / "a"), tmp_path / "notes", ONE)
    assert len(os.listdir(tmp_path / "notes")) == 2


@pytest.mark.parametrize("nonsense", [b"", b"{", b"[]", b"null", b'{"repository": 7}', b"\xff"])
def test_a_note_that_is_nonsense_is_replaced(tmp_path, nonsense):
    repository.check_repository(nas(tmp_path), tmp_path / "notes", ONE)
    (note,) = (tmp_path / "notes").iterdir()
    note.write_bytes(nonsense)
    repository.check_repository(nas(tmp_path), tmp_path / "notes", ONE)
    assert repository.known_repository(nas(tmp_path), tmp_path / "notes") == ONE


def test_a_note_that_cannot_be_kept_is_an_error_of_the_configuration(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError) as caught:
        repository.check_repository(nas(tmp_path), tmp_path / "file" / "notes", ONE)
    assert "state_directory" in caught.value.hint


def test_that_the_archive_was_marked_is_remembered_for_the_directory_that_is_configured(tmp_path):
    one, other = nas(tmp_path), nas(tmp_path, archive_directory="other")
    repository.note_archive(one, tmp_path / "notes")
    assert not repository.is_archive_noted(one, tmp_path / "notes"), (
        "nothing is remembered of a NAS that is not known"
    )
    repository.check_repository(one, tmp_path / "notes", ONE)
    assert not repository.is_archive_noted(one, tmp_path / "notes")
    repository.note_archive(one, tmp_path / "notes")
    assert repository.is_archive_noted(one, tmp_path / "notes")
    assert not repository.is_archive_noted(other, tmp_path / "notes")
    assert repository.known_repository(one, tmp_path / "notes") == ONE
