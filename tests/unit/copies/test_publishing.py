import os
import stat
import threading
from dataclasses import dataclass

import pytest

from shared.copies import catalogue, partials, publishing, side_files
from shared.copies.copy_files import SHARED_GROUP, NasFiles
from shared.host.errors import CopyError, NasError
from tests.support import copies as make

STAMP, OLD = "20261122T203800Z-17", "20261121T203800Z-9"
DATA = b"the bytes of an ova" * 100
PARTIAL = f".{STAMP}.17.partial"
SIDES = {"vbox": b"<VirtualBox/>", "sav": b"memory"}
SIDECAR = make.sidecar(DATA, files={suffix: make.side_file(data) for suffix, data in SIDES.items()})


@dataclass
class Intent:
    stamp: str = STAMP
    claim: int = 17
    size: int = len(DATA)
    sha256: str = make.sidecar(DATA).sha256
    seal: str = ""


def exported(directory):
    """What VirtualBox leaves: a partial .ova that only its owner may read."""
    make.put_copy(directory, OLD)
    path = directory / f"{PARTIAL}.ova"
    path.write_bytes(DATA)
    path.chmod(0o600)
    for suffix, data in SIDES.items():
        assert (
            side_files.keep(NasFiles(), directory, f"{PARTIAL}.{suffix}", [data])
            == SIDECAR.files[suffix]
        )


def sealed(directory):
    exported(directory)
    publishing.seal(NasFiles(), directory, SIDECAR)


def assert_published(directory):
    found = catalogue.read(directory, None)
    assert [copy.stamp for copy in found.good] == [OLD, STAMP]
    assert found.partials == ()
    assert (directory / f"{STAMP}.ova").read_bytes() == DATA
    assert (directory / f"{STAMP}.sha256").read_bytes() == SIDECAR.checksum_lines()
    for suffix, data in SIDES.items():
        assert (directory / f"{STAMP}.{suffix}").read_bytes() == data


def test_sealed_and_published(tmp_path):
    sealed(tmp_path)
    assert catalogue.read(tmp_path, None).latest_good.stamp == OLD
    assert publishing.publish(NasFiles(), tmp_path, Intent()) == SIDECAR
    assert_published(tmp_path)
    for suffix in ("ova", "json", "sha256", "vbox", "sav"):
        assert stat.S_IMODE((tmp_path / f"{STAMP}.{suffix}").stat().st_mode) == 0o640


@pytest.mark.broad
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_while_sealing_leaves_nothing_that_counts_and_sealing_again_mends_it(
    tmp_path, after
):
    for step in range(50):
        directory = tmp_path / str(step)
        exported(directory)
        try:
            publishing.seal(make.BreakingFiles(step, after=after), directory, SIDECAR)
        except make.PowerCutError:
            assert [copy.stamp for copy in catalogue.read(directory, None).copies] == [OLD]
            publishing.seal(NasFiles(), directory, SIDECAR)
            publishing.publish(NasFiles(), directory, Intent())
            assert_published(directory)
            continue
        assert step >= 8
        return
    pytest.fail("sealing never ended")


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_operation_of_publishing_is_rolled_forward(tmp_path, after):
    for step in range(50):
        directory = tmp_path / str(step)
        sealed(directory)
        try:
            publishing.publish(make.BreakingFiles(step, after=after), directory, Intent())
        except make.PowerCutError:
            assert catalogue.read(directory, None).latest_good is not None
            publishing.publish(NasFiles(), directory, Intent())
            assert_published(directory)
            publishing.publish(NasFiles(), directory, Intent())
            assert_published(directory)
            continue
        assert step >= 4
        return
    pytest.fail("publishing never ended")


def test_the_copy_counts_from_the_last_rename_on(tmp_path):
    """Sidecar first: a reader never sees an .ova that it knows nothing about."""
    sealed(tmp_path)
    seen = []

    class Watching(NasFiles):
        def rename(self, directory, source, target):
            super().rename(directory, source, target)
            seen.append(
                (target.rpartition(".")[2], catalogue.read(directory, None).latest_good.stamp)
            )

    publishing.publish(Watching(), tmp_path, Intent())
    assert seen == [("json", OLD), ("vbox", OLD), ("sav", OLD), ("sha256", OLD), ("ova", STAMP)]


@pytest.mark.broad
def test_two_processes_publish_at_once(tmp_path):
    for turn in range(30):
        directory = tmp_path / str(turn)
        sealed(directory)
        barrier, failed = threading.Barrier(3), []

        def run(directory=directory, barrier=barrier, failed=failed):
            barrier.wait()
            try:
                publishing.publish(NasFiles(), directory, Intent())
            except Exception as error:  # noqa: BLE001
                failed.append(error)

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert_published(directory)


class LyingFiles(NasFiles):
    """Renames, then says that it did not: a request repeated after its reply was lost."""

    def rename(self, directory, source, target):
        super().rename(directory, source, target)
        raise FileNotFoundError(2, "No such file or directory", source)


def test_a_rename_that_was_done_although_the_nas_says_no(tmp_path):
    sealed(tmp_path)
    publishing.publish(LyingFiles(), tmp_path, Intent())
    assert_published(tmp_path)


class IdleFiles(NasFiles):
    """Says that it renamed, and did not."""

    def rename(self, directory, source, target):
        pass


def test_a_rename_that_was_not_done_although_the_nas_says_yes(tmp_path):
    sealed(tmp_path)
    with pytest.raises(NasError, match="does not appear"):
        publishing.publish(IdleFiles(), tmp_path, Intent())
    assert catalogue.read(tmp_path, None).latest_good.stamp == OLD


def test_nothing_under_a_final_name_is_replaced(tmp_path):
    for suffix in ("ova", "json", "sav"):
        directory = tmp_path / suffix
        sealed(directory)
        (directory / f"{STAMP}.{suffix}").write_bytes(b"x" * len(DATA))
        with pytest.raises(CopyError, match="exists already"):
            publishing.publish(NasFiles(), directory, Intent())
        assert (directory / f"{STAMP}.{suffix}").read_bytes() == b"x" * len(DATA)
        assert (directory / f"{PARTIAL}.{suffix}").exists()


def test_a_partial_beside_the_same_final_file_is_removed(tmp_path):
    sealed(tmp_path)
    os.link(tmp_path / f"{PARTIAL}.ova", tmp_path / f"{STAMP}.ova")
    os.link(tmp_path / f"{PARTIAL}.json", tmp_path / f"{STAMP}.json")
    os.link(tmp_path / f"{PARTIAL}.sav", tmp_path / f"{STAMP}.sav")
    publishing.publish(NasFiles(), tmp_path, Intent())
    assert_published(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda d: (d / f"{PARTIAL}.json").unlink(), "nothing to publish"),
        (lambda d: (d / f"{PARTIAL}.ova").unlink(), "nothing to publish"),
        (lambda d: (d / f"{PARTIAL}.ova").write_bytes(b"short"), "5 bytes instead of"),
        (lambda d: (d / f"{PARTIAL}.sav").unlink(), "nothing to publish"),
        (lambda d: (d / f"{PARTIAL}.sav").write_bytes(b"short"), "5 bytes instead of"),
        (
            lambda d: (d / f"{PARTIAL}.json").write_bytes(make.sidecar(b"other").render()),
            "not the sidecar",
        ),
        (lambda d: (d / f"{PARTIAL}.json").write_bytes(b"{"), "no JSON object"),
        (lambda d: (d / f"{STAMP}.json").symlink_to("/etc/passwd"), "no ordinary file"),
        (
            lambda d: (
                (d / f"{PARTIAL}.ova").unlink(),
                (d / f"{PARTIAL}.ova").symlink_to("/etc/passwd"),
            ),
            "no ordinary file",
        ),
    ],
)
def test_what_is_not_there_as_it_was_sealed_is_not_published(tmp_path, spoil, reason):
    sealed(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CopyError, match=reason):
        publishing.publish(NasFiles(), tmp_path, Intent())
    assert catalogue.read(tmp_path, None).latest_good.stamp == OLD


def test_a_displaced_worker_that_comes_late_brings_nothing_back(tmp_path):
    """Published by another host, then let go of by retention; now the first worker wakes up."""
    sealed(tmp_path)
    publishing.publish(NasFiles(), tmp_path, Intent())
    for suffix in ("ova", "json", "sha256", "vbox", "sav"):
        (tmp_path / f"{STAMP}.{suffix}").unlink()
    with pytest.raises(CopyError, match="nothing to publish"):
        publishing.publish(NasFiles(), tmp_path, Intent())
    assert [copy.stamp for copy in catalogue.read(tmp_path, None).copies] == [OLD]


def test_an_export_that_is_not_there_is_not_sealed(tmp_path):
    make.put_copy(tmp_path, OLD)
    with pytest.raises(CopyError, match="is not there"):
        publishing.seal(NasFiles(), tmp_path, SIDECAR)
    (tmp_path / f"{PARTIAL}.ova").symlink_to(tmp_path / f"{OLD}.ova")
    with pytest.raises(CopyError, match="is not there"):
        publishing.seal(NasFiles(), tmp_path, make.sidecar(b"bytes of an ova"))
    (tmp_path / f"{PARTIAL}.ova").unlink()
    exported(tmp_path)
    (tmp_path / f"{PARTIAL}.sav").unlink()
    with pytest.raises(CopyError, match=r"its \.sav is missing"):
        publishing.seal(NasFiles(), tmp_path, SIDECAR)


def test_partial_files_of_dead_claims_are_removed_and_nothing_else(tmp_path):
    make.put_copy(tmp_path, OLD)
    names = [f".{STAMP}.{claim}.partial.ova" for claim in (5, 17, 30)] + [
        f".{STAMP}.5.partial.json",
        f".{STAMP}.5.partial.ova-tmp",
        "notes",
    ]
    for name in names:
        (tmp_path / name).write_text("x")
    (tmp_path / f".{STAMP}.6.partial.ova").symlink_to(tmp_path / f"{OLD}.ova")
    before = set(os.listdir(tmp_path))
    removed = partials.remove_partials(NasFiles(), tmp_path, live={17}, newest=29)
    assert removed == [
        f".{STAMP}.5.partial.json",
        f".{STAMP}.5.partial.ova",
        f".{STAMP}.5.partial.ova-tmp",
    ]
    assert set(os.listdir(tmp_path)) == before - set(removed)
    assert partials.remove_own_partials(NasFiles(), tmp_path, 17) == [f".{STAMP}.17.partial.ova"]
    assert partials.remove_partials(NasFiles(), tmp_path / "gone", live=(), newest=99) == []


def test_directories_keep_the_group_of_their_parent(tmp_path):
    (tmp_path / "nas").mkdir()
    (tmp_path / "nas").chmod(0o2770)
    NasFiles().make_directory(tmp_path / "nas" / "web")
    assert stat.S_IMODE((tmp_path / "nas" / "web").stat().st_mode) == 0o2750
    NasFiles(SHARED_GROUP).make_directory(tmp_path / "shared")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o2770
    NasFiles().make_directory(tmp_path / "shared")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o2770
    (tmp_path / "link").symlink_to("shared")
    with pytest.raises(OSError, match="link"):
        NasFiles().make_directory(tmp_path / "link")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\0b", "/etc/passwd"])
def test_the_door_takes_plain_names_only(tmp_path, name):
    for operation in (
        NasFiles().create,
        NasFiles().remove,
        NasFiles().set_mode,
        NasFiles().sync_file,
    ):
        with pytest.raises(ValueError, match="plain file name"):
            operation(tmp_path, name)
    with pytest.raises(ValueError, match="plain file name"):
        NasFiles().rename(tmp_path, "x", name)


def test_the_index_comes_with_the_copy_and_nothing_depends_on_it(tmp_path):
    sealed(tmp_path)
    (tmp_path / f"{PARTIAL}.index").write_bytes(b"index")
    (tmp_path / f"{STAMP}.index").mkdir()
    publishing.publish(NasFiles(), tmp_path, Intent())
    assert (tmp_path / f"{STAMP}.ova").exists()
    (tmp_path / f"{STAMP}.index").rmdir()
    publishing.publish(NasFiles(), tmp_path, Intent())
    assert (tmp_path / f"{STAMP}.index").read_bytes() == b"index"
    assert_published(tmp_path)
    (tmp_path / f"{STAMP}.index").unlink()
    assert catalogue.read(tmp_path, None).latest_good.stamp == STAMP
