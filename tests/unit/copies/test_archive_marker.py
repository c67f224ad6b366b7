"""The archive is believed only if it is there and the right one."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.copies.archive_marker import (
    ARCHIVE_MARKER,
    check_archive,
    is_elsewhere,
    prepare_archive,
    require_ours_or_new,
)
from shared.copies.copy_files import NasFiles
from shared.host.configuration import Nas
from shared.host.errors import ConfigurationError, NasError

ONE, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"

Lost = Callable[[], list[str]]


@pytest.fixture
def nas(tmp_path: Path) -> Callable[..., Nas]:
    (tmp_path / "nas").mkdir()
    (tmp_path / "disk").mkdir()
    return lambda archive="archive": Nas(
        mountpoint=tmp_path / "nas", archive_directory=archive, require_mount=False
    )


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Mounts an empty file system, which goes with the test."""
    if os.geteuid() != 0:
        pytest.skip("a mount needs root")
    places: list[Path] = []

    def mount(place: Path) -> None:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        places.append(place)

    yield mount
    for place in reversed(places):
        subprocess.run(["umount", place], check=True, stdin=subprocess.DEVNULL)


def check(nas: Nas, *, known: bool = False, lost: Lost = list) -> bool:
    return check_archive(nas, ONE, known=lambda: known, lost=lost)


@pytest.mark.broad
def test_what_an_older_program_made_is_believed_if_it_agrees_with_the_database(nas) -> None:
    one = nas("old/archive")
    assert check(one) is False, "one that was never needed is not there"
    with pytest.raises(
        NasError, match=r"lacks the copies of VMs that are ARCHIVED \(directories a, b\)"
    ):
        check(one, lost=lambda: ["b", "a"])
    with pytest.raises(NasError, match=r"has no \.vmbackup-archive") as caught:
        check(one, known=True)
    assert f"echo {ONE} > {one.archive}/{ARCHIVE_MARKER}" in caught.value.hint
    prepare_archive(NasFiles(), one, ONE)
    prepare_archive(NasFiles(), one, ONE)
    assert check(one, known=True, lost=lambda: ["b"]) is True
    assert os.listdir(one.archive) == [ARCHIVE_MARKER]


@pytest.mark.broad
@pytest.mark.parametrize("text", [f"{OTHER}\n", "\x1b[2J", "x" * 5000, "\xff"])
def test_the_marker_of_another_is_refused_and_stays(nas, text: str) -> None:
    one = nas()
    one.archive.mkdir()
    (one.archive / ARCHIVE_MARKER).write_text(text, encoding="latin-1")
    for act in (
        lambda: check(one),
        lambda: require_ours_or_new(one, ONE),
        lambda: prepare_archive(NasFiles(), one, ONE),
    ):
        with pytest.raises(NasError, match="belongs to") as caught:
            act()
        assert str(one.archive / ARCHIVE_MARKER) in caught.value.hint
        assert caught.value.message.isprintable()
    with pytest.raises(NasError, match="belongs to"):
        require_ours_or_new(one, None)
    assert (one.archive / ARCHIVE_MARKER).read_text(encoding="latin-1") == text


def test_an_empty_marker_is_none_and_is_written_anew(nas) -> None:
    one = nas()
    one.archive.mkdir()
    (one.archive / ARCHIVE_MARKER).write_text("")
    (one.archive / f"{ARCHIVE_MARKER}.killed").write_text("half")
    assert check(one) is False
    prepare_archive(NasFiles(), one, ONE)
    assert check(one) is True
    assert os.listdir(one.archive) == [ARCHIVE_MARKER]


@pytest.mark.broad
def test_an_archive_elsewhere_needs_its_marker(nas, tmp_path: Path) -> None:
    one = nas(tmp_path / "disk")
    assert is_elsewhere(one)
    with pytest.raises(NasError, match=r"has no \.vmbackup-archive"):
        check(one)
    prepare_archive(NasFiles(), one, ONE)
    assert check(one)
    with pytest.raises(NasError, match="cannot prepare"):
        prepare_archive(NasFiles(), nas(tmp_path / "unmounted"), ONE)


def test_a_link_on_the_way_to_it_leads_elsewhere_and_one_in_its_place_is_refused(
    nas, tmp_path: Path
) -> None:
    one = nas("away/archive")
    (tmp_path / "disk" / "archive").mkdir()
    (one.mountpoint / "away").symlink_to(tmp_path / "disk")
    with pytest.raises(NasError, match=r"has no \.vmbackup-archive"):
        check(one)
    (one.mountpoint / "archive").symlink_to(tmp_path / "disk")
    with pytest.raises(ConfigurationError, match=rf"is a symbolic link to {tmp_path}/disk"):
        check(nas())


def test_a_mount_of_its_own_below_the_mount_point_needs_its_marker(
    nas, mounted: Callable[[Path], None]
) -> None:
    one = nas()
    one.archive.mkdir()
    assert not is_elsewhere(one)
    mounted(one.archive)
    assert is_elsewhere(one)
    with pytest.raises(NasError, match="it is not mounted, or another one"):
        check(one)
    prepare_archive(NasFiles(), one, ONE)
    assert check(one)
