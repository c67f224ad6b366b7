"""New disks in the place of old ones: all or none, whenever it is killed."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shared.host.errors import ConfigurationError
from shared.tasks import disk_swap, swap_note
from shared.tasks.disk_swap import PresentDisks, SwapError, present_disks
from shared.tasks.swap_note import Swap, SwapNote, SwappedDisk

NOW = "2026-11-29T20:00:00Z"
COUNTS = (1, 2, 3)


@pytest.fixture(params=COUNTS)
def swap(request: pytest.FixtureRequest, tmp_path: Path) -> Swap:
    """A swap of so many disks, all of which are made, each in a directory of its own."""
    disks = []
    for number in range(request.param):
        (folder := tmp_path / "vms" / str(number)).mkdir(parents=True)
        place = folder / "disk.vdi"
        place.write_bytes(b"old")
        disk = SwappedDisk(
            str(place), f"{place}.new", f"{place}.old", disk_swap.inode_of(str(place))
        )
        Path(disk.new).write_bytes(b"new")
        disks.append(replace(disk, after=disk_swap.inode_of(disk.new)))
    return Swap("11111111-0000-0000-0000-000000000000", "web", "20261122T203800Z-17", tuple(disks))


def disks(swap: Swap) -> list[bytes]:
    """What is at the place of each disk; empty: nothing."""
    return [
        Path(disk.place).read_bytes() if os.path.lexists(disk.place) else b"" for disk in swap.disks
    ]


def killed_before(step: int, work: Callable[[], object]) -> bool:
    """Runs `work` in a process that is killed before its rename or removal of this number."""
    if not (pid := os.fork()):
        counted = 0
        real = {name: getattr(os, name) for name in ("rename", "unlink")}

        def counting(name: str) -> Callable[..., None]:
            def call(*arguments: str) -> None:
                nonlocal counted
                if counted == step:
                    os._exit(9)
                counted += 1
                real[name](*arguments)

            return call

        for name in real:
            setattr(os, name, counting(name))
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def test_all_disks_are_new_and_the_old_ones_are_kept(swap: Swap) -> None:
    def settled() -> None:
        assert disks(swap)[0] == b"", "the VM cannot be started"
        assert set(disks(swap)[1:]) <= {b"old"}

    disk_swap.swap_disks(swap, settled)
    assert set(disks(swap)) == {b"new"}
    assert present_disks(swap) is PresentDisks.NEW
    assert {Path(path).read_bytes() for path in disk_swap.left_of_old(swap)} == {b"old"}
    disk_swap.remove_old(swap)
    assert disk_swap.left_of_old(swap) == ()
    assert set(disks(swap)) == {b"new"}


def test_what_is_not_settled_changes_nothing(swap: Swap) -> None:
    def settled() -> None:
        raise SwapError("it runs")

    with pytest.raises(SwapError, match="it runs"):
        disk_swap.swap_disks(swap, settled)
    assert set(disks(swap)) == {b"old"}
    assert present_disks(swap) is PresentDisks.OLD


@pytest.mark.broad
@pytest.mark.parametrize("step", range(7))
def test_killed_anywhere_it_has_all_old_or_all_new_disks_or_no_first_one(
    swap: Swap, tmp_path: Path, step: int
) -> None:
    note = SwapNote.of(tmp_path / "state", swap.uuid)
    note.write(swap)
    killed = killed_before(step, lambda: disk_swap.swap_disks(swap, lambda: None))
    assert killed == (step < 2 * len(swap.disks))
    found = disks(swap)
    assert set(found) in ({b"old"}, {b"new"}) or found[0] == b""
    # and killed again, while that is put right
    again = note.read()
    assert again == swap
    for other in range(9):
        if not killed_before(other, lambda: disk_swap.resume(note, swap, NOW)):
            break
        found = disks(swap)
        assert set(found) in ({b"old"}, {b"new"}) or found[0] == b""
    noted = note.read()
    assert set(disks(swap)) == ({b"new"} if noted else {b"old"})
    assert bool(noted) == (not killed)
    assert sorted(path.suffix for path in tmp_path.glob("vms/*/*")) == sorted(
        [".vdi", *([".old"] if noted else [])] * len(swap.disks)
    )


@pytest.mark.broad
@pytest.mark.parametrize("there", [True, False], ids=["a mount point", "no directory"])
@pytest.mark.parametrize("step", range(7))
def test_while_the_disks_are_away_it_stays_noted_and_is_told_each_time(
    swap: Swap, tmp_path: Path, step: int, there: bool
) -> None:
    note = SwapNote.of(tmp_path / "state", swap.uuid)
    note.write(swap)
    killed = killed_before(step, lambda: disk_swap.swap_disks(swap, lambda: None))
    folders = [Path(disk.place).parent for disk in swap.disks]
    for folder in folders:
        folder.rename(folder.with_suffix(".away"))
        if there:
            folder.mkdir()
    for _ in range(2):
        with pytest.raises(SwapError, match="web was being taken back to 20261122T203800Z-17"):
            disk_swap.resume(note, swap, NOW)
        assert note.read() == swap
    for folder in folders:
        if there:
            folder.rmdir()
        folder.with_suffix(".away").rename(folder)
    assert bool(disk_swap.resume(note, swap, NOW)) == (not killed)
    assert set(disks(swap)) == ({b"old"} if killed else {b"new"})


@pytest.mark.parametrize("there", [True, False], ids=["a mount point", "no directory"])
def test_the_first_disk_is_not_there_while_another_one_is_away(
    swap: Swap, tmp_path: Path, there: bool
) -> None:
    """Else the VM would start with an old and a new disk as soon as that is back."""
    note = SwapNote.of(tmp_path / "state", swap.uuid)
    note.write(swap)
    assert killed_before(2 * len(swap.disks) - 1, lambda: disk_swap.swap_disks(swap, lambda: None))
    for disk in swap.disks[1:]:
        folder = Path(disk.place).parent
        folder.rename(folder.with_suffix(".away"))
        if there:
            folder.mkdir()
    if len(swap.disks) == 1:
        assert disk_swap.resume(note, swap, NOW) is None
    else:
        with pytest.raises(SwapError, match=r"is not there|is away"):
            disk_swap.resume(note, swap, NOW)
        assert not os.path.lexists(swap.disks[0].place)
        assert note.read() == swap


def test_a_disk_that_cannot_be_looked_at_is_not_taken_for_one_that_is_gone(
    swap: Swap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = SwapNote.of(tmp_path / "state", swap.uuid)
    note.write(swap)
    real = os.lstat

    def broken(path: str) -> os.stat_result:
        if str(path) == swap.disks[-1].place:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(os, "lstat", broken)
    with pytest.raises(SwapError, match="cannot be looked at: Input/output error"):
        disk_swap.resume(note, swap, NOW)
    assert note.read() == swap


def test_a_name_that_no_file_can_have_is_absent(swap: Swap, tmp_path: Path) -> None:
    """As an older release noted it, which had made no file then."""
    long = tuple(
        replace(disk, new=f"{disk.place}.{'n' * 250}", old=f"{disk.place}.{'o' * 250}", after=0)
        for disk in swap.disks
    )
    note = SwapNote.of(tmp_path / "state", swap.uuid)
    noted = note.write(replace(swap, disks=long))
    assert disk_swap.left_of_old(noted) == ()
    assert disk_swap.resume(note, noted, NOW) is None
    assert note.read() is None


def test_the_new_ones_that_were_not_whole_yet_are_removed(swap: Swap, tmp_path: Path) -> None:
    note = SwapNote.of(tmp_path / "state", swap.uuid)
    made = replace(swap, disks=tuple(replace(disk, after=0) for disk in swap.disks))
    note.write(made)
    assert disk_swap.resume(note, made, NOW) is None
    assert set(disks(swap)) == {b"old"}
    assert list(tmp_path.glob("vms/*/*.new")) == []
    assert list(swap_note.noted(tmp_path / "state")) == []


def test_what_somebody_put_there_is_never_overwritten_or_taken_for_a_disk(swap: Swap) -> None:
    def settled() -> None:
        Path(swap.disks[0].place).write_bytes(b"mine")

    with pytest.raises(SwapError, match="is there"):
        disk_swap.swap_disks(swap, settled)
    assert disks(swap) == [b"mine"] + [b"old"] * (len(swap.disks) - 1)
    assert present_disks(swap) is PresentDisks.HALF
    Path(swap.disks[0].place).unlink()
    disk_swap.put_back(swap)
    disk_swap.put_back(swap)
    assert set(disks(swap)) == {b"old"}

    Path(swap.disks[-1].place).write_bytes(b"in place")
    Path(swap.disks[-1].place).rename(swap.disks[-1].place + ".away")
    Path(swap.disks[-1].place).write_bytes(b"another")
    with pytest.raises(SwapError, match="not the disk any more"):
        disk_swap.swap_disks(swap, lambda: None)


def test_an_old_disk_that_was_replaced_is_not_removed_and_not_put_back(swap: Swap) -> None:
    disk_swap.swap_disks(swap, lambda: None)
    first = swap.disks[0]
    Path(first.old).rename(first.old + ".away")
    Path(first.old).write_bytes(b"mine")
    assert first.old in disk_swap.left_of_old(swap)
    with pytest.raises(SwapError, match="not the disk any more"):
        disk_swap.remove_old(swap)
    assert Path(first.old).read_bytes() == b"mine"
    assert len(disk_swap.left_of_old(swap)) == len(swap.disks), "nothing was removed"
    with pytest.raises(SwapError, match="not the disk any more"):
        disk_swap.put_back(swap)


def test_a_note_that_cannot_be_used_is_an_error_that_says_what_to_look_for(tmp_path: Path) -> None:
    note = SwapNote.of(tmp_path, "x")
    note.path.write_text('{"uuid": 1}')
    with pytest.raises(ConfigurationError, match="cannot be used"):
        note.read()
    note.path.write_text("{")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        note.read()


class TestUndone:
    """The old disks in the place of the new ones: the same promises the other way round."""

    @pytest.fixture
    def done(self, swap: Swap, tmp_path: Path) -> SwapNote:
        """It was taken back, and is about to be undone."""
        disk_swap.swap_disks(swap, lambda: None)
        note = SwapNote.of(tmp_path / "state", swap.uuid)
        note.write(replace(swap, done=NOW, undoing=NOW))
        return note

    def test_the_old_disks_are_back(self, swap: Swap, done: SwapNote) -> None:
        def settled() -> None:
            assert disks(swap)[0] == b"", "the VM cannot be started"

        disk_swap.undo(swap, settled)
        assert set(disks(swap)) == {b"old"}
        assert disk_swap.resume(done, replace(swap, done=NOW, undoing=NOW), NOW) is None
        assert [path.name for path in Path(swap.disks[0].place).parent.iterdir()] == ["disk.vdi"]

    def test_what_is_not_settled_changes_nothing(self, swap: Swap, done: SwapNote) -> None:
        def settled() -> None:
            raise SwapError("it runs")

        with pytest.raises(SwapError, match="it runs"):
            disk_swap.undo(swap, settled)
        assert set(disks(swap)) == {b"new"}
        kept = disk_swap.resume(done, replace(swap, done=NOW, undoing=NOW), NOW)
        assert kept == done.read() == replace(swap, done=NOW)
        assert len(disk_swap.left_of_old(swap)) == len(swap.disks)

    @pytest.mark.broad
    @pytest.mark.parametrize("step", range(7))
    def test_killed_anywhere_it_has_all_old_or_all_new_disks_or_no_first_one(
        self, swap: Swap, done: SwapNote, tmp_path: Path, step: int
    ) -> None:
        undoing = done.read()
        assert undoing
        killed = killed_before(step, lambda: disk_swap.undo(undoing, lambda: None))
        assert killed == (step < 2 * len(swap.disks))
        found = disks(swap)
        assert set(found) in ({b"old"}, {b"new"}) or found[0] == b""
        for other in range(9):  # and killed again, while that is put right
            if not killed_before(other, lambda: disk_swap.resume(done, undoing, NOW)):
                break
            found = disks(swap)
            assert set(found) in ({b"old"}, {b"new"}) or found[0] == b""
        noted = done.read()
        assert noted == (replace(swap, done=NOW) if killed else None)
        assert set(disks(swap)) == ({b"new"} if killed else {b"old"})
        assert sorted(path.suffix for path in tmp_path.glob("vms/*/*")) == sorted(
            [".vdi", *([".old"] if killed else [])] * len(swap.disks)
        ), "nothing of what the user had is removed"

    def test_while_the_disks_are_away_it_stays_noted(
        self, swap: Swap, done: SwapNote, tmp_path: Path
    ) -> None:
        undoing = done.read()
        assert undoing
        (tmp_path / "vms").rename(tmp_path / "away")
        with pytest.raises(SwapError, match="web was being given its disks of before 2026"):
            disk_swap.resume(done, undoing, NOW)
        assert done.read() == undoing

    def test_an_older_program_leaves_it_alone(self, done: SwapNote) -> None:
        """It goes by `done`, which stays: it would remove the old disks else."""
        undoing = done.read()
        assert undoing
        assert undoing.done == NOW
