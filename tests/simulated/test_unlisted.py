"""Copies of which no record tells, and copies without a database: with simulated hosts.

Listed, verified, restored, pinned, archived, removed, and taken back when their VM is found again.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coordinator.admin import program
from shared.copies import catalogue, sidecar_files
from shared.copies.sidecar_fields import Verified
from shared.host.clock import SystemClock, timestamp
from shared.host.errors import ExitCode, IllegalMoveError, LockedError
from shared.host.host_identity import HostIdentity
from shared.state.rules import claims
from shared.state.rules import unlisted as rules
from shared.state.states import State
from shared.state.store.create import create
from shared.tasks import archiving, finding_unlisted, verification
from tests.simulated.conftest import Rig
from tests.simulated.test_verify import OLD, back_up, damage, two_copies
from tests.support.copies import ova, put_copy
from worker import database, verify, vmfind
from worker.backup import worker as backup

STAMPS = ["20261101T000000Z-3", "20261102T000000Z-4"]


def admin(rig: Rig, *arguments: str, host: str = "alpha") -> Result:
    """What an operator runs at a host."""
    made = rig.host(host)
    tables = {
        "nas": {"mountpoint": str(rig.nas), "require_mount": False, "reserve": 0},
        "host": {"node": host, "state_directory": str(rig.folder / f"state-{host}")},
        "virtualbox": {"vboxmanage": str(made.vboxmanage), "home": str(made.home)},
    }
    config = rig.folder / f"{host}.toml"
    config.write_text(
        "\n".join(
            f"[{table}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in row.items())
            for table, row in tables.items()
        ),
        encoding="utf-8",
    )
    return CliRunner().invoke(program, ["--config", str(config), *arguments])


def ask(rig: Rig, *arguments: str, host: str = "alpha") -> dict[str, object]:
    result = admin(rig, *arguments, "--json", host=host)
    assert result.exit_code == 0, result.output
    answered: dict[str, object] = json.loads(result.stdout)
    return answered


def keys(rig: Rig) -> list[str]:
    return sorted(rig.site().database.head().contents.vms)


@pytest.fixture
def forgotten(rig: Rig) -> tuple[Rig, str, list[str]]:
    """A VM with two copies that was forgotten: its UUID, and their stamps."""
    uuid = rig.host().make_vm("web01").uuid
    for stamp in STAMPS:
        put_copy(rig.nas / "web01", stamp, ova(), uuid=uuid, vm="web01", node="alpha")
    return rig, uuid, STAMPS


def test_forget_says_how_to_get_at_the_copies(rig: Rig) -> None:
    two_copies(rig)
    uuid = rig.record("web01").uuid
    result = admin(rig, "forget", "web01")
    assert f"restore {uuid}`" in result.stdout
    assert "vmbackup-admin --config " in result.stdout


def test_they_are_listed_with_where_they_come_from(forgotten: tuple[Rig, str, list[str]]) -> None:
    rig, uuid, stamps = forgotten
    rows = ask(rig, "copies")["copies"]
    assert isinstance(rows, list)
    assert [
        (row["vm"], row["name"], row["node"], row["stamp"], row["listed"], row["directory"])
        for row in rows
    ] == [(uuid, "web01", "alpha", stamp, False, str(rig.nas / "web01")) for stamp in stamps]
    shown = admin(rig, "copies").stdout
    assert "no record" in shown
    assert uuid in shown


@pytest.mark.parametrize("word", ["uuid", "name", "directory"])
def test_one_would_be_restored_on_another_host(
    forgotten: tuple[Rig, str, list[str]], word: str
) -> None:
    rig, uuid, stamps = forgotten
    what = {"uuid": uuid, "name": "web01", "directory": str(rig.nas / "web01")}[word]
    restored = ask(rig, "restore", what, "--copy", stamps[0], "--dry-run", host="beta")
    assert (restored["name"], restored["stamp"]) == ("web01", stamps[0])
    assert restored["database"] == "current"


def test_pin_unpin_and_remove_leave_no_record(forgotten: tuple[Rig, str, list[str]]) -> None:
    rig, uuid, stamps = forgotten
    assert ask(rig, "pin", uuid, stamps[0])["changed"] is True
    assert sidecar_files.read(rig.nas / "web01", stamps[0]).pinned
    assert admin(rig, "remove", uuid, stamps[0], "--yes").exit_code == ExitCode.STATE_REFUSED
    assert ask(rig, "unpin", uuid, stamps[0])["changed"] is True
    assert not sidecar_files.read(rig.nas / "web01", stamps[0]).pinned
    ask(rig, "remove", "web01", stamps[0], "--yes")
    found = catalogue.read(rig.nas / "web01", uuid)
    assert [copy.stamp for copy in found.copies] == [stamps[1]]
    assert (keys(rig), found.partials, found.foreign) == ([], (), ())


def test_they_are_archived_with_a_record_that_stays(forgotten: tuple[Rig, str, list[str]]) -> None:
    rig, uuid, stamps = forgotten
    answered = ask(rig, "archive", uuid)
    assert (answered["vm"], answered["copies"]) == ("web01", stamps)
    record = rig.record("web01")
    assert (record.status, record.taken_in_by, record.moving) == (State.ARCHIVED, "", None)
    assert record.last_copy is not None
    assert record.last_copy.stamp == stamps[-1]
    assert not (rig.nas / "web01").exists()
    assert [copy.stamp for copy in catalogue.read(rig.nas / "archive" / "web01", uuid).good] == (
        stamps
    )


def test_an_archive_that_was_broken_off_is_finished(
    forgotten: tuple[Rig, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, uuid, stamps = forgotten
    site = rig.site()
    record = finding_unlisted.find(site, site.database.head().contents).records[0]

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archiving, "archive", killed)
        with pytest.raises(KeyboardInterrupt):
            finding_unlisted.archive(site, record, lambda _done, _total: None)
    assert rig.record("web01").moving == "archive"
    assert database.run(rig.site()).done == ["web01"]
    assert len(catalogue.read(rig.nas / "archive" / "web01", uuid).good) == len(stamps)


def test_they_are_verified_on_schedule_once_a_day(
    forgotten: tuple[Rig, str, list[str]],
) -> None:
    rig, uuid, stamps = forgotten
    for stamp in stamps:
        side = sidecar_files.read(rig.nas / "web01", stamp)
        aged = replace(side, finished=OLD, verified=None)
        (rig.nas / "web01" / f"{stamp}.json").write_bytes(aged.render())
    damage(rig, "web01", stamps[0])
    site = rig.site()
    assert verify.plan(site) == [f"{uuid} {stamp}" for stamp in stamps]
    report = verify.run(site)
    assert (report.done, report.failed) == ([uuid], [uuid])
    found = catalogue.read(rig.nas / "web01", uuid)
    assert [copy.good for copy in found.copies] == [False, True]
    assert (keys(rig), found.partials) == ([], ())
    assert verify.run(rig.site()) == verify.Report()


def test_a_damaged_one_is_said_to_be_so_every_day(
    forgotten: tuple[Rig, str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """No record has it, so nothing else tells of it after the day on which it was read."""
    rig, uuid, stamps = forgotten
    side = sidecar_files.read(rig.nas / "web01", stamps[0])
    damaged = replace(side, verified=Verified(timestamp(SystemClock().now()), "block 3 differs"))
    (rig.nas / "web01" / f"{stamps[0]}.json").write_bytes(damaged.render())
    assert verify.run(rig.site()).failed == [uuid]
    (said,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert said.getMessage() == f"the copy {stamps[0]} is damaged: block 3 differs"
    assert verify.run(rig.site()) == verify.Report(), "this host has looked today"


def test_a_worker_that_was_killed_leaves_a_record_that_goes(
    forgotten: tuple[Rig, str, list[str]],
) -> None:
    rig, uuid, stamps = forgotten
    site = rig.site()
    record = finding_unlisted.find(site, site.database.head().contents).records[0]
    session = site.database.session("verify").__enter__()  # which nobody leaves, as after a kill
    finding_unlisted.take_in(session, record)
    assert keys(rig) == [uuid]
    assert verification.verify_copy(site, session, uuid, stamps[0]) is not None
    site.database.commit_once(
        lambda contents: rules.take_in(contents, record, "a session that is gone"), "test", "test"
    )
    assert keys(rig) == [uuid]
    database.run(rig.site())
    assert keys(rig) == []


def test_a_vm_that_is_found_again_goes_on_with_its_copies(
    forgotten: tuple[Rig, str, list[str]],
) -> None:
    rig, uuid, stamps = forgotten
    ask(rig, "pin", uuid, stamps[0])
    rig.look()
    record = rig.record("web01")
    assert (record.uuid, record.directory, record.status) == (
        uuid,
        "web01",
        State.BACKUP_NECESSARY,
    )
    assert record.last_copy is not None
    assert record.last_copy.stamp == stamps[-1]
    assert backup.run(rig.site()).done == ["web01"]
    copies = catalogue.read(rig.nas / "web01", uuid).good
    assert stamps[0] in [copy.stamp for copy in copies], "it is pinned"
    assert copies[-1].claim > max(int(stamp.rpartition("-")[2]) for stamp in stamps)


def test_a_vm_that_is_found_again_leaves_a_copy_of_its_directory_alone(
    forgotten: tuple[Rig, str, list[str]],
) -> None:
    rig, _uuid, stamps = forgotten
    rig.policies["*"] = {"keep_last": 1}
    shutil.copytree(rig.nas / "web01", rig.nas / "web01-old")
    rig.look()
    assert rig.record("web01").directory == "web01"
    assert backup.run(rig.site()).done == ["web01"]
    assert [copy.stamp for copy in catalogue.read(rig.nas / "web01-old", None).good] == stamps


def test_one_that_was_renamed_gets_its_old_directory_and_a_namesake_another(
    forgotten: tuple[Rig, str, list[str]],
) -> None:
    rig, uuid, _stamps = forgotten
    rig.host().run("modifyvm", uuid, "--name", "mail")
    rig.host().make_vm("web01")
    rig.look()
    assert rig.record("mail").directory == "web01"
    assert rig.record("web01").directory != "web01"


def test_a_vm_that_is_found_while_somebody_works_on_its_copies_is_an_ordinary_one(
    forgotten: tuple[Rig, str, list[str]],
) -> None:
    rig, _uuid, stamps = forgotten
    site = rig.site()
    record = finding_unlisted.find(site, site.database.head().contents).records[0]
    with site.database.session("verify") as session:
        finding_unlisted.take_in(session, record)
        vmfind.run(rig.site())
        assert keys(rig) == ["web01"]
        with pytest.raises(LockedError, match="has a record: web01"):
            finding_unlisted.take_in(session, record)
    assert keys(rig) == ["web01"]
    assert rig.record("web01").directory == "web01"
    assert len(stamps) == 2


def test_copies_in_the_directory_of_another_vm_can_be_restored_alone(
    forgotten: tuple[Rig, str, list[str]],
) -> None:
    rig, uuid, stamps = forgotten
    other_with_record(rig)
    for path in (rig.nas / "web01").iterdir():
        shutil.move(path, rig.nas / "other" / path.name)
    shutil.rmtree(rig.nas / "web01")
    assert ask(rig, "restore", uuid, "--dry-run", host="beta")["stamp"] == stamps[-1]
    refused = admin(rig, "pin", uuid, stamps[0])
    assert refused.exit_code == IllegalMoveError.exit_code
    assert "the directory of other" in refused.stderr


def back_up_other(rig: Rig) -> None:
    """A second host's VM, called other, with a copy."""
    rig.host("beta").make_vm("other")
    rig.look("beta")
    assert backup.run(rig.site("beta")).done == ["other"]


def other_with_record(rig: Rig) -> None:
    """A second host's VM, called other, without copies."""
    rig.host("beta").make_vm("other")
    vmfind.run(rig.site("beta"))
    (rig.nas / "other").mkdir()


def test_a_namesake_with_a_record_is_meant_and_the_other_one_told_of(
    forgotten: tuple[Rig, str, list[str]],
) -> None:
    rig, uuid, _stamps = forgotten
    rig.host("beta").make_vm("web01")
    vmfind.run(rig.site("beta"))
    put_copy(
        rig.nas / rig.record("web01").directory,
        STAMPS[0],
        ova(),
        uuid=rig.record("web01").uuid,
    )
    result = admin(rig, "restore", "web01", "--dry-run", "--as", "new")
    assert result.exit_code == 0, result.output
    assert str(rig.nas / rig.record("web01").directory) in result.stdout
    assert f"for those: {uuid}" in result.stderr


def test_two_directories_of_one_vm_are_chosen_by_directory(
    forgotten: tuple[Rig, str, list[str]],
) -> None:
    rig, uuid, stamps = forgotten
    shutil.copytree(rig.nas / "web01", rig.nas / "web01-saved")
    refused = admin(rig, "restore", uuid, "--dry-run")
    assert refused.exit_code == ExitCode.USAGE
    assert str(rig.nas / "web01-saved") in refused.stderr
    place = str(rig.nas / "web01-saved")
    answered = ask(rig, "restore", place, "--dry-run", "--as", "new")
    assert answered["stamp"] == stamps[-1]


def test_copies_in_two_directories_of_one_vm_are_all_verified(
    forgotten: tuple[Rig, str, list[str]],
) -> None:
    rig, _uuid, stamps = forgotten
    shutil.copytree(rig.nas / "web01", rig.nas / "web01-saved")
    answered = ask(rig, "verify", "--all")
    assert (answered["skipped"], answered["unread"]) == ([], [])
    assert sorted((row["vm"], row["stamp"]) for row in answered["copies"]) == [  # type: ignore[attr-defined]
        (str(rig.nas / name), stamp) for name in ("web01", "web01-saved") for stamp in stamps
    ]
    assert keys(rig) == []


def test_copies_in_another_directory_wait_while_somebody_works_on_the_first(
    forgotten: tuple[Rig, str, list[str]],
) -> None:
    rig, _uuid, _stamps = forgotten
    shutil.copytree(rig.nas / "web01", rig.nas / "web01-saved")
    site = rig.site()
    first, second = finding_unlisted.find(site, site.database.head().contents).records
    with site.database.session("verify") as session, site.database.session("verify") as other:
        finding_unlisted.take_in(session, first)
        session.claim(
            lambda contents: claims.grant(contents, first.key, session.id, "verify", "now"), "read"
        )
        with pytest.raises(LockedError, match="in another directory, web01"):
            finding_unlisted.take_in(other, second)
        assert keys(rig) == [first.key]


class TestLostDatabase:
    def lose(self, rig: Rig) -> None:
        shutil.rmtree(rig.nas / "vmstate")

    def test_copies_are_restored_and_rehearsed_and_backups_go_on_after_init(self, rig: Rig) -> None:
        stamps = two_copies(rig)
        uuid = rig.record("web01").uuid
        back_up_other(rig)
        admin(rig, "archive", "other", host="beta")
        self.lose(rig)
        assert ask(rig, "restore", "web01", "--as", "back")["database"] == "none"
        restored = ask(rig, "restore", "other", "--as", "again", host="beta")
        assert restored["recorded"] is False
        rehearsed = ask(rig, "rehearse", "web01", "--copy", stamps[0])
        assert (rehearsed["good"], rehearsed["recorded"]) == (True, False)
        assert not (rig.nas / "vmstate").exists()
        self.make_anew(rig)
        rig.look()
        record = rig.record("web01")
        assert (record.uuid, record.directory) == (uuid, "web01")
        assert record.last_copy is not None
        assert record.last_copy.stamp == stamps[-1]
        assert "web01" in back_up(rig)
        assert rig.record("web01").status == State.CLEAN

    def make_anew(self, rig: Rig) -> None:
        for note in rig.folder.glob("state-*/repository-*.json"):
            note.unlink()
        made = create(
            rig.nas / "vmstate", HostIdentity.of_this_machine("first"), SystemClock(), 2.0, floor=99
        )
        marker = rig.nas / "archive" / ".vmbackup-archive"
        marker.write_text(f"{made.version.repository}\n", encoding="utf-8")

    def test_a_damaged_newest_generation_does_not_keep_from_restoring(self, rig: Rig) -> None:
        two_copies(rig)
        newest = max((rig.nas / "vmstate" / "gen").iterdir())
        data = newest.read_bytes()
        newest.unlink()
        newest.write_bytes(data[:100])
        before = sorted((rig.nas / "vmstate").rglob("*"))
        assert ask(rig, "restore", "web01", "--as", "back")["database"] == "earlier"
        assert sorted((rig.nas / "vmstate").rglob("*")) == before
        assert Path(newest).read_bytes() == data[:100]


def test_a_nas_that_is_reached_by_a_link_is_like_any_other(rig: Rig) -> None:
    """`/mnt/nas` may lead to where the desktop has mounted it."""
    real = rig.folder / "media"
    rig.nas.rename(real)
    rig.nas.symlink_to(real)
    old, new = two_copies(rig)
    assert admin(rig, "doctor").exit_code == 0
    assert [one["stamp"] for one in ask(rig, "copies")["copies"]] == [old, new]  # type: ignore[attr-defined]
    for command in (("verify", "web01"), ("archive", "web01"), ("activate", "web01")):
        assert admin(rig, *command).exit_code == 0, command
    shutil.rmtree(real / "vmstate")
    shutil.rmtree(rig.folder / "state-alpha")
    assert [one["stamp"] for one in ask(rig, "copies")["copies"]] == [old, new]  # type: ignore[attr-defined]
    made = admin(rig, "statedb", "rebuild", "--yes")
    assert made.exit_code == 0, made.output
    vmfind.run(rig.site())
    record = rig.record("web01")
    assert record.last_copy is not None
    assert (record.last_copy.stamp, record.directory) == (new, "web01")
    assert rig.site().database.head().contents.claims_granted >= int(new.rpartition("-")[2])
