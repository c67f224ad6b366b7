"""Verification: what is due, what damage does to a VM, and what interrupts it."""

import errno
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from shared.copies import catalogue, sidecar_files
from shared.copies.sidecar import Sidecar
from shared.host.clock import SystemClock, timestamp
from shared.host.errors import LockedError, LockLostError, NasError
from shared.nas.nas_errors import reported
from shared.state.rules import claims
from shared.state.sessions import deaths, recovery
from shared.state.sessions.deaths import Dead
from shared.state.states import State
from shared.tasks import verification
from shared.tasks.archiving import archive
from tests.simulated.conftest import Rig
from worker import verify
from worker.allowance import Allowance
from worker.backup import worker as backup

OLD = timestamp(SystemClock().now() - timedelta(days=40))


def two_copies(rig: Rig, name: str = "web01") -> list[str]:
    """A VM with two copies; their stamps, oldest first."""
    vm = rig.host().make_vm(name)
    back_up(rig)
    vm.start()
    vm.stop()
    back_up(rig)
    found = [copy.stamp for copy in catalogue.read(rig.nas / name, None).good]
    assert len(found) == 2
    return found


def back_up(rig: Rig) -> list[str]:
    rig.look()
    return backup.run(rig.site(engine="vboxmanage")).done


def age(rig: Rig, key: str, *stamps: str, to: str = OLD) -> None:
    """Makes copies look as if they had been read long ago."""
    for stamp in stamps:
        side = sidecar_files.read(rig.nas / key, stamp)
        (rig.nas / key / f"{stamp}.json").write_bytes(
            replace(side, finished=to, verified=None).render()
        )
    change(rig, lambda contents: contents.with_vm(replace(contents.vms[key], verified=to)))


def change(rig: Rig, how: object) -> None:
    rig.site().database.commit_once(how, "test", "test")  # type: ignore[arg-type]


def damage(rig: Rig, key: str, stamp: str, place: str = "nas") -> None:
    """Turns one bit in the middle of a copy."""
    path = rig.folder / place / key / f"{stamp}.ova"
    path.chmod(0o640)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def marked(rig: Rig, key: str, stamp: str) -> str:
    side = sidecar_files.read(rig.nas / key, stamp)
    assert side.verified is not None
    return side.verified.result


def test_a_fresh_copy_is_not_due_and_an_idle_tick_commits_nothing(rig: Rig) -> None:
    two_copies(rig)
    site = rig.site()
    before = site.database.head().generation
    assert verify.run(site) == verify.Report()
    assert site.database.head().generation == before


def test_a_copy_that_was_not_read_for_long_is_read_by_any_host_and_then_is_not_due_any_more(
    rig: Rig,
) -> None:
    old, new = two_copies(rig)
    age(rig, "web01", old)
    rig.host("beta")
    assert verify.plan(rig.site("beta")) == [f"web01 {old}"]
    assert verify.run(rig.site("beta")).done == ["web01"]
    assert marked(rig, "web01", old) == "good"
    record = rig.record("web01")
    assert (record.status, record.claim, record.damaged) == (State.CLEAN, None, ())
    assert record.verified == sidecar_files.read(rig.nas / "web01", new).finished, (
        "the oldest of its last readings"
    )
    assert verify.run(rig.site()).exit_code == 0
    assert [name for name in rig.files("web01") if "partial" in name] == []


def test_the_longest_unverified_comes_first_across_vms_and_the_share_of_a_day_is_kept(
    rig: Rig,
) -> None:
    first, second = two_copies(rig, "a"), two_copies(rig, "b")
    age(rig, "a", *first, to=timestamp(SystemClock().now() - timedelta(days=50)))
    age(rig, "b", second[1], to=timestamp(SystemClock().now() - timedelta(days=60)))
    size = catalogue.read(rig.nas / "b", None).copies[1].size
    assert verify.run(rig.site(verify_bytes=size)).done == ["b"], (
        "one copy a day, however small the share is"
    )
    assert verify.run(rig.site(verify_bytes=size)).done == []
    assert verify.run(rig.site(verify_bytes=100 * size)).done == ["a", "a"]


def test_the_share_begins_again_with_the_day(rig: Rig) -> None:
    allowance = Allowance(rig.folder, 100, "verified")
    now = SystemClock().now()
    assert [allowance.take(60, now), allowance.take(40, now), allowance.take(1, now)] == [
        True,
        True,
        False,
    ]
    assert allowance.take(1000, now + timedelta(days=1))
    assert not allowance.take(1, now + timedelta(days=1))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "used", ["1e999", "NaN", "-5", "true", "null", '"60"', "[60]", "9" * 5000, "[" * 100_000]
)
def test_a_note_of_nonsense_begins_the_day_anew(rig: Rig, used: str) -> None:
    now = SystemClock().now()
    note = rig.folder / "verified-today.json"
    note.write_text(f'{{"day": "{now:%Y-%m-%d}", "bytes": {used}}}')
    allowance = Allowance(rig.folder, 100, "verified")
    assert [allowance.take(60, now), allowance.take(60, now)] == [True, False]
    note.unlink()
    os.mkfifo(note)
    assert [allowance.take(60, now), allowance.take(60, now)] == [True, False]


def test_no_days_mean_never(rig: Rig) -> None:
    old, new = two_copies(rig)
    age(rig, "web01", old, new)
    assert verify.run(rig.site(verify_days=0)).done == []


def test_a_damaged_newest_copy_is_marked_and_its_vm_is_backed_up_again(rig: Rig) -> None:
    old, new = two_copies(rig)
    age(rig, "web01", new)
    damage(rig, "web01", new)
    outcome = verify.run(rig.site())
    assert (outcome.failed, outcome.exit_code) == (["web01"], 3)
    record = rig.record("web01")
    assert (record.status, record.damaged, record.claim) == (State.BACKUP_NECESSARY, (new,), None)
    assert record.last_copy is not None
    assert record.last_copy.stamp == old
    assert "digest" in marked(rig, "web01", new)
    assert (rig.nas / "web01" / f"{new}.ova").exists(), "never deleted"

    assert back_up(rig) == ["web01"]
    assert rig.record("web01").status is State.CLEAN
    assert (rig.nas / "web01" / f"{new}.ova").exists()
    before = rig.site().database.head().generation
    assert verify.run(rig.site()).exit_code == 0
    assert rig.site().database.head().generation == before, (
        "a damaged copy that is still there is no news"
    )
    for suffix in ("ova", "json", "sha256"):
        (rig.nas / "web01" / f"{new}.{suffix}").unlink()
    verify.run(rig.site())
    assert rig.record("web01").damaged == ()


@pytest.mark.timeout(30)
def test_a_side_file_that_has_grown_to_many_gigabytes_is_not_read(rig: Rig) -> None:
    _, new = two_copies(rig)
    age(rig, "web01", new)
    settings = rig.nas / "web01" / f"{new}.vbox"
    settings.chmod(0o640)
    os.truncate(settings, 100 << 30)
    assert verify.run(rig.site()).failed == ["web01"]
    assert f"has {100 << 30} bytes instead of" in marked(rig, "web01", new)


def test_a_damaged_older_copy_changes_no_state(rig: Rig) -> None:
    old, new = two_copies(rig)
    age(rig, "web01", old)
    damage(rig, "web01", old)
    assert verify.run(rig.site()).failed == ["web01"]
    record = rig.record("web01")
    assert (record.status, record.damaged) == (State.CLEAN, (old,))
    assert record.last_copy is not None
    assert record.last_copy.stamp == new


def test_copies_that_somebody_deleted_are_missed(rig: Rig) -> None:
    old, new = two_copies(rig)
    age(rig, "web01", old)
    for stamp in (old, new):
        (rig.nas / "web01" / f"{stamp}.ova").unlink()
    verify.run(rig.site())
    record = rig.record("web01")
    assert (record.status, record.last_copy) == (State.BACKUP_NECESSARY, None)


def test_a_copy_that_was_cut_off_is_damaged(rig: Rig) -> None:
    _, new = two_copies(rig)
    path = rig.nas / "web01" / f"{new}.ova"
    path.chmod(0o640)
    path.write_bytes(path.read_bytes()[:-1])
    age(rig, "web01", new)
    assert verify.run(rig.site()).failed == ["web01"]
    assert "bytes instead of" in marked(rig, "web01", new)


def test_an_archived_copy_is_verified_where_it_is_and_its_vm_stays_archived(rig: Rig) -> None:
    _, new = two_copies(rig)
    site = rig.site()
    age(rig, "web01", new)
    archive(site, "web01")
    damage(rig, "web01", new, "nas/archive")
    assert verify.run(site).failed == ["web01"]
    record = rig.record("web01")
    assert (record.status, record.damaged) == (State.ARCHIVED, (new,))


def test_a_vm_that_somebody_holds_is_left_alone(rig: Rig) -> None:
    old, new = two_copies(rig)
    age(rig, "web01", old, new)
    site = rig.site()
    with site.database.session("other") as session:
        session.commit(
            lambda contents: claims.grant(contents, "web01", session.id, "verify", "now"), "held"
        )
        assert verify.run(rig.site()).done == []
        with pytest.raises(LockedError), rig.site().database.session("verify") as mine:
            verification.verify_copy(rig.site(), mine, "web01", new)
    assert verify.run(rig.site()).done == ["web01", "web01"]


def test_what_cannot_be_read_is_not_called_damaged_and_the_vm_is_let_go(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = two_copies(rig)
    age(rig, "web01", old)

    def refuse(*_arguments: object, **_options: object) -> None:
        raise NasError("Input/output error")

    monkeypatch.setattr(verification, "check_ova", refuse)
    assert verify.run(rig.site()).failed == ["web01"]
    record = rig.record("web01")
    assert (record.status, record.damaged, record.claim) == (State.CLEAN, (), None)
    assert sidecar_files.read(rig.nas / "web01", old).verified is None


def unreadable(monkeypatch: pytest.MonkeyPatch, stamp: str, times: int) -> None:
    """The server's disk answers for one copy with an input/output error, so many times."""
    check, left = verification.check_ova, [times]

    def refuse(directory: Path, name: str, **options: object) -> object:
        if stamp in name and left[0]:
            left[0] -= 1
            with reported(f"read {name}"):
                raise OSError(errno.EIO, "Input/output error")
        return check(directory, name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(verification, "check_ova", refuse)


def test_a_copy_that_the_servers_disk_has_lost_is_damaged(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = two_copies(rig)
    age(rig, "web01", old, new)
    unreadable(monkeypatch, new, 2)
    assert verify.run(rig.site()).failed == ["web01"]
    record = rig.record("web01")
    assert (record.status, record.damaged) == (State.BACKUP_NECESSARY, (new,))
    assert "cannot be read" in marked(rig, "web01", new)
    assert marked(rig, "web01", old) == "good"


def test_a_copy_that_can_be_read_at_the_second_try_is_good(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, new = two_copies(rig)
    age(rig, "web01", new)
    unreadable(monkeypatch, new, 1)
    assert verify.run(rig.site()).failed == []
    assert (rig.record("web01").status, marked(rig, "web01", new)) == (State.CLEAN, "good")


def test_nothing_is_damaged_while_the_whole_nas_is_in_trouble(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = two_copies(rig)
    age(rig, "web01", old, new)
    unreadable(monkeypatch, new, 2)

    def refuse(directory: Path, stamp: str) -> Sidecar:
        raise NasError("the NAS does not answer")

    monkeypatch.setattr(sidecar_files, "read", refuse)
    assert verify.run(rig.site()).failed == ["web01"]
    assert (rig.record("web01").status, rig.record("web01").damaged) == (State.CLEAN, ())


def test_a_displaced_verification_marks_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    _, new = two_copies(rig)
    age(rig, "web01", new)
    damage(rig, "web01", new)
    check = verification.check_ova

    def displaced(*arguments: object, **options: object) -> object:
        site = rig.site()
        live = deaths.live_sessions(site.database.head().contents)
        recovery.expire(
            site.database, [Dead(row, "declared dead by the test") for row in live], "test"
        )
        return check(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(verification, "check_ova", displaced)
    with pytest.raises(LockLostError):
        verify.run(rig.site())
    assert sidecar_files.read(rig.nas / "web01", new).verified is None
    assert rig.record("web01").status is State.CLEAN


def test_what_a_crashed_worker_began_comes_first(rig: Rig) -> None:
    old, new = two_copies(rig)
    age(rig, "web01", old, new)
    change(rig, lambda contents: contents.with_vm(replace(contents.vms["web01"], moving="archive")))
    assert verify.run(rig.site()).done == []


def test_no_directory_is_looked_at_before_it_is_due(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_copies(rig)

    def forbidden(*_arguments: object) -> None:
        raise AssertionError("looked")

    monkeypatch.setattr(catalogue, "read", forbidden)
    verify.run(rig.site())
