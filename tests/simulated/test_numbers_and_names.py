"""Databases that are younger than the copies, and VMs whose name was used before.

No copy is lost, and none is taken for another VM's.
"""

import shutil
from pathlib import Path

import pytest

from coordinator.restore import choice
from shared.copies import catalogue
from shared.copies.archive_marker import ARCHIVE_MARKER
from shared.copies.claim_numbers import directories_in, highest_claim
from shared.host.clock import SystemClock
from shared.host.host_identity import HostIdentity
from shared.state.rules import vm_records
from shared.state.states import State
from shared.state.store.create import create
from shared.tasks import pruning
from tests.simulated.conftest import LEASE_SECONDS, Rig
from tests.support.copies import UUID, put_copy
from tests.support.simulated import SimulatedVm
from worker import notifier, vmfind
from worker.backup import worker as backup


def use(vm: SimulatedVm) -> None:
    vm.start()
    vm.stop()


def back_up(rig: Rig, vm: SimulatedVm, key: str = "web01", **settings: object) -> str:
    """Uses the VM, backs it up, and answers the stamp of the copy that made it CLEAN."""
    use(vm)
    site = rig.look()
    backup.run(rig.site(**settings) if settings else site)
    record = rig.record(key)
    assert record.status == State.CLEAN
    assert record.last_copy is not None
    return record.last_copy.stamp


def good(rig: Rig, directory: str = "web01") -> list[str]:
    return [copy.stamp for copy in catalogue.read(rig.nas / directory, None).good]


def number(stamp: str) -> int:
    return int(stamp.rpartition("-")[2])


def make_anew(rig: Rig, *, floor: int) -> None:
    shutil.rmtree(rig.nas / "vmstate")
    shutil.rmtree(rig.nas / "archive")
    shutil.rmtree(rig.folder / "state-alpha", ignore_errors=True)
    create(
        rig.nas / "vmstate",
        HostIdentity.of_this_machine("first"),
        SystemClock(),
        LEASE_SECONDS,
        floor=floor,
    )


# Numbers


def test_a_database_that_is_made_anew_counts_on_above_the_copies(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    old = [back_up(rig, vm) for _ in range(2)]
    make_anew(rig, floor=highest_claim(directories_in((rig.nas,))))
    new = back_up(rig, vm, keep_last=1)
    assert number(new) > max(map(number, old))
    assert good(rig) == [new], "the older ones are older by every sign"
    assert rig.record("web01").order_unknown == ()


def test_a_database_that_was_put_back_counts_on_above_the_vms_own_copies(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    first = back_up(rig, vm)
    shutil.copytree(rig.nas / "vmstate", rig.folder / "kept")
    second, third = back_up(rig, vm), back_up(rig, vm)
    assert good(rig) == [second, third]
    shutil.rmtree(rig.nas / "vmstate")
    shutil.copytree(rig.folder / "kept", rig.nas / "vmstate")
    shutil.rmtree(rig.folder / "state-alpha")
    new = back_up(rig, vm)
    assert number(new) > number(third) > number(first)
    assert good(rig) == [third, new]


def test_where_numbers_began_again_the_new_copy_stays_and_is_the_one_restored(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """A database of the first release may have counted from one already, beside copies with higher
    numbers.
    """
    vm = rig.host().make_vm("web01")
    old = [
        put_copy(
            rig.nas / "web01", f"2026010{day}T000000Z-{90 + day}", uuid=vm.uuid, vm="web01"
        ).stamp
        for day in (1, 2)
    ]
    site = rig.look()
    site.floor = lambda _key: 0  # type: ignore[method-assign] # as it was
    backup.run(site)
    record = rig.record("web01")
    assert record.last_copy is not None
    new = record.last_copy.stamp
    assert number(new) < 90
    assert good(rig) == [*old, new]
    assert record.order_unknown == (*old, new)
    assert "disagree about 3 copies of it" in caplog.text
    chosen = choice.look_for(site, record, "latest")
    assert chosen.copy.stamp == new
    assert f"--copy {old[1]}" in chosen.doubt


def test_numbers_out_of_bounds_raise_nothing(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    back_up(rig, vm)
    for planted in (
        "20260101T000000Z-999999999999999.ova",
        "20260101T000000Z-18446744073709551615.ova",
        "20260101T000000Z-77.vbox",
    ):
        (rig.nas / "web01" / planted).write_bytes(b"planted")
    assert number(back_up(rig, vm)) < 1000
    assert len(good(rig)) == 2


def test_the_highest_number_that_is_believed_ends_no_backup(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    back_up(rig, vm)
    (rig.nas / "web01" / "20200101T000000Z-1000000000000.json").write_bytes(b"")
    new = [back_up(rig, vm) for _ in range(3)]
    assert number(new[0]) > 10**12
    assert good(rig) == new[1:]


# CLEAN


def test_a_copy_that_is_gone_when_retention_has_run_does_not_make_the_vm_clean(
    rig: Rig, monkeypatch: object
) -> None:
    vm = rig.host().make_vm("web01")
    use(vm)
    site = rig.look()
    apply = pruning.retention.apply

    def lose(files: object, directory: Path, *arguments: object, **options: object) -> list[str]:
        for path in directory.glob("*.ova"):
            path.unlink()
        return apply(files, directory, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("shared.copies.retention.apply", lose)  # type: ignore[attr-defined]
    assert backup.run(site).failed == ["web01"]
    record = rig.record("web01")
    assert (record.status, record.last_copy) == (State.BACKUP_NECESSARY, None)
    assert "could not be put in place" in record.last_error


# Names


def test_a_vm_of_a_name_that_was_used_before_gets_another_directory(rig: Rig) -> None:
    first = rig.host().make_vm("web01")
    kept = back_up(rig, first)
    rig.host().run("unregistervm", first.uuid, "--delete")
    rig.site().database.commit_once(
        lambda contents: vm_records.forget(contents, "web01"), "forget", "test"
    )
    second = rig.host().make_vm("web01")
    stamps = [back_up(rig, second, keep_last=1) for _ in range(3)]
    assert rig.record("web01").directory == f"web01-{second.uuid[:8]}"
    assert good(rig) == [kept]
    assert good(rig, rig.record("web01").directory) == stamps[-1:]


def test_a_forgotten_vm_that_is_found_again_takes_its_copies_back(rig: Rig) -> None:
    vm = rig.host().make_vm("web01")
    back_up(rig, vm)
    rig.site().database.commit_once(
        lambda contents: vm_records.forget(contents, "web01"), "forget", "test"
    )
    (
        rig.nas / "web01" / "@eaDir"
    ).mkdir()  # what NAS systems, people's computers and crashes leave beside copies
    for name in (".DS_Store", "._20260101T000000Z-1.ova", ".20260101T000000Z-1.1.partial.ova"):
        (rig.nas / "web01" / name).write_bytes(b"")
    rig.look()
    assert rig.record("web01").directory == "web01"


def test_what_lies_there_in_any_spelling_or_in_the_archive_keeps_a_name_taken(rig: Rig) -> None:
    for place in (rig.nas / "WEB01", rig.nas / "archive" / "web02"):
        put_copy(place, "20260101T000000Z-3", uuid=UUID)
    (rig.nas / "web03").mkdir()
    (rig.nas / "web03" / "notes.txt").write_text("mine")
    (rig.nas / "web04").write_text("a file")
    (rig.nas / "web05").mkdir()
    vms = {
        name: rig.host().make_vm(name)
        for name in ("web01", "web02", "web03", "web04", "web05", "Archive")
    }
    rig.look()
    directories = {name: rig.record(name).directory for name in vms}
    assert directories == {
        **{name: f"{name}-{vms[name].uuid[:8]}" for name in ("web01", "web02", "web03", "web04")},
        "web05": "web05",
        "Archive": "%41rchive",
    }


def test_a_directory_that_the_first_release_gave_to_two_vms_loses_no_copy_of_either(
    rig: Rig,
) -> None:
    vm = rig.host().make_vm("web01")
    mine = back_up(rig, vm)
    theirs = [
        put_copy(rig.nas / "web01", f"2026010{day}T000000Z-{day}", uuid=UUID, vm="web01").stamp
        for day in (1, 2, 3)
    ]
    latest = [back_up(rig, vm, keep_last=1) for _ in range(2)][-1]
    notifier.run(rig.site())
    assert mine not in good(rig)
    assert set(good(rig)) == {*theirs, latest}


def test_two_vms_of_one_host_that_differ_by_case_only_are_found_at_once(rig: Rig) -> None:
    rig.host().make_vm("Web")
    rig.host().make_vm("web")
    vmfind.run(rig.site())
    directories = {
        record.directory.casefold() for record in rig.site().database.head().contents.vms.values()
    }
    assert len(directories) == 2


def test_where_the_archive_cannot_be_looked_at_the_name_has_the_uuid(rig: Rig) -> None:
    (rig.nas / "archive" / ARCHIVE_MARKER).unlink()  # it is not mounted
    vm = rig.host().make_vm("web01")
    rig.look()
    assert rig.record("web01").directory == f"web01-{vm.uuid[:8]}"
