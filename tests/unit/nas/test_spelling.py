"""The NAS must give names back as they were written."""

import os
import subprocess
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.host.errors import NasError
from shared.nas.reading import list_fresh
from shared.nas.spelling import WRITTEN, changed_names, require_names_kept
from tests.support.packages import require

Bend = Callable[[str], str]
BENT: dict[str, Bend] = {
    "lower case": str.lower,
    "upper case": str.upper,
    "folded": str.casefold,
    "decomposed": lambda name: unicodedata.normalize("NFD", name),
    "bytes instead of letters": lambda name: name.encode().decode("latin-1"),
    "question marks": lambda name: name.encode("ascii", "replace").decode(),
}


def test_a_file_system_that_keeps_names_is_fine_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / ".vmbackup-doctor.killed" / "names").mkdir(parents=True)
    require_names_kept(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert changed_names(tmp_path) == ""


@pytest.mark.parametrize("bend", BENT)
def test_one_that_lists_them_otherwise_is_refused(tmp_path: Path, bend: str) -> None:
    wrong = changed_names(tmp_path, lambda place: [BENT[bend](name) for name in list_fresh(place)])
    assert "was written, and listed is" in wrong


def test_one_that_loses_a_name_is_refused(tmp_path: Path) -> None:
    assert "listed is nothing" in changed_names(tmp_path, lambda place: list_fresh(place)[1:])


def test_no_two_of_the_names_are_one_where_case_is_ignored() -> None:
    assert len({unicodedata.normalize("NFKC", name).casefold() for name in WRITTEN}) == len(WRITTEN)


def test_a_place_where_nothing_can_be_written_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(NasError, match="cannot try out"):
        require_names_kept(tmp_path / "none")


@pytest.fixture
def formatted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Makes and mounts a small file system, which goes with the test."""
    if os.geteuid() != 0:
        pytest.skip("a file system of its own needs root")
    mounted: list[Path] = []

    def make(size_mib: int, command: list[str], mount: list[str]) -> Path:
        image, place = tmp_path / "image", tmp_path / "mounted"
        with image.open("wb") as file:
            file.truncate(size_mib * 2**20)
        place.mkdir()
        subprocess.run([*command, image], check=True, stdin=subprocess.DEVNULL, capture_output=True)
        subprocess.run(
            [*mount, image, place], check=True, stdin=subprocess.DEVNULL, capture_output=True
        )
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", place], check=True, stdin=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_real_one_that_folds_the_case_of_what_it_lists_is_refused(
    formatted: Callable[..., Path],
) -> None:
    require("mkntfs", "ntfs-3g")
    place = formatted(8, ["mkntfs", "-F", "-Q"], ["lowntfs-3g", "-o", "ignore_case"])
    with pytest.raises(NasError, match="does not give names back as they were written") as caught:
        require_names_kept(place)
    assert "ignore_case" in caught.value.hint
    assert not [name for name in os.listdir(place) if name.startswith(".vmbackup")]
