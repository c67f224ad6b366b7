"""`vmbackup-admin verify`, and how damage and rehearsals are shown."""

import json
from dataclasses import replace

import pytest

from coordinator.restore import choice
from shared.copies import screenshots, sidecar_files
from shared.copies.copy_files import NasFiles
from shared.copies.sidecar_fields import Rehearsed
from shared.reports.space_taken import of_vm
from shared.state.states import State
from tests.support.copies import ova, put_copy
from tests.unit.coordinator.conftest import Operator, copy

OLD, NEW = "20261121T203800Z-9", "20261122T203800Z-17"


@pytest.fixture
def operator(site_with_database: Operator) -> Operator:
    """A NAS with a CLEAN VM that has two whole copies."""
    made = site_with_database
    made.add_vms("web01")
    for stamp in (OLD, NEW):
        put_copy(made.nas / "web01", stamp, ova(stamp.encode() * 999))
    made.set("web01", status=State.CLEAN, last_copy=copy(NEW), verified="2026-11-22T20:38:00Z")
    return made


def damage(operator: Operator, stamp: str) -> None:
    path = operator.nas / "web01" / f"{stamp}.ova"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_all_copies_of_a_vm(operator: Operator) -> None:
    result = operator.admin("verify", "web01")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (
        0,
        "2 copies read, 2 good, 0 damaged",
    )
    assert operator.record("web01").status is State.CLEAN


def test_damage_is_told_marked_and_shown(operator: Operator) -> None:
    damage(operator, NEW)
    result = operator.admin("verify", "--all", "--json")
    assert result.exit_code == 3
    found = {row["stamp"]: row for row in json.loads(result.stdout)["copies"]}
    assert (found[OLD]["good"], found[NEW]["good"]) == (True, False)
    assert "digest" in found[NEW]["problem"]
    record = operator.record("web01")
    assert (record.status, record.damaged, record.last_copy and record.last_copy.stamp) == (
        State.BACKUP_NECESSARY,
        (NEW,),
        OLD,
    )
    (row,) = operator.json("status")["vms"]
    assert (row["damaged"], row["last_copy"]["stamp"]) == ([NEW], OLD)
    assert "1 damaged copy" in operator.admin("status").stdout
    assert "`vmbackup-admin remove VM STAMP`" in operator.admin("verify", "web01").stdout
    assert "verification found" in operator.admin("copies", "web01").stdout
    assert "digest" in operator.admin("show", "web01").stdout
    assert "digest" in operator.admin("log").stdout


def test_damage_that_has_gone_is_taken_back(operator: Operator) -> None:
    damage(operator, NEW)
    assert operator.admin("verify", "web01").exit_code == 3
    damage(operator, NEW)
    assert operator.admin("verify", "web01").exit_code == 0
    record = operator.record("web01")
    assert (record.damaged, record.last_copy and record.last_copy.stamp) == ((), NEW)


def test_only_what_is_due(operator: Operator) -> None:
    side = sidecar_files.read(operator.nas / "web01", OLD)
    (operator.nas / "web01" / f"{OLD}.json").write_bytes(
        replace(side, finished="2020-01-01T00:00:00Z").render()
    )
    assert (
        operator.admin("verify", "--due", "--dry-run").stdout
        == f"would read web01 {OLD} ({len(ova(OLD.encode() * 999)) / 1024:.1f} KiB)\n"
    )
    assert [
        row["stamp"]
        for row in json.loads(operator.admin("verify", "web01", "--due", "--json").stdout)["copies"]
    ] == [OLD]
    assert operator.admin("verify", "--due", "--dry-run").stdout == ""


def test_a_dry_run_reads_and_writes_nothing(operator: Operator) -> None:
    damage(operator, NEW)
    before = operator.database().head().generation
    result = operator.admin("verify", "--all", "--dry-run")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 2)
    assert operator.database().head().generation == before


def test_a_vm_that_somebody_works_on(operator: Operator) -> None:
    with operator.session() as session:
        operator.claim(session, "web01")
        assert operator.admin("verify", "web01").exit_code == 11
        result = operator.admin("verify", "--all", "--json")
        assert result.exit_code == 0
        assert [row["vm"] for row in json.loads(result.stdout)["skipped"]] == ["web01"]


@pytest.mark.parametrize("words", [[], ["web01", "--all"], ["web01", "--all", "--due"]])
def test_it_must_be_clear_which_copies_are_meant(operator: Operator, words: list[str]) -> None:
    assert operator.admin("verify", *words).exit_code == 2


def test_a_vm_that_is_not_known(operator: Operator) -> None:
    assert operator.admin("verify", "nobody").exit_code == 2


def test_copies_that_are_gone_are_noticed_without_anything_to_read(operator: Operator) -> None:
    for stamp in (OLD, NEW):
        (operator.nas / "web01" / f"{stamp}.ova").unlink()
    assert operator.admin("verify", "web01").exit_code == 3
    record = operator.record("web01")
    assert (record.status, record.last_copy) == (State.BACKUP_NECESSARY, None)


def test_a_rehearsal_is_shown(operator: Operator) -> None:
    side = sidecar_files.read(operator.nas / "web01", NEW)
    last = Rehearsed(
        "2026-12-01T00:00:00Z", "beta", "it did nothing", "it ran for 60 s", booted=True
    )
    (operator.nas / "web01" / f"{NEW}.json").write_bytes(replace(side, rehearsed=last).render())
    rows = {row["stamp"]: row for row in operator.json("copies", "web01")["copies"]}
    assert rows[OLD]["rehearsed"] is None
    assert rows[NEW]["rehearsed"]["observed"] == "it ran for 60 s"
    assert "it did nothing, booted" in operator.admin("copies", "web01").stdout
    assert "on beta: it did nothing (it ran for 60 s)" in operator.admin("show", "web01").stdout


def taken(operator: Operator) -> int:
    """Bytes of all copies of the VM, as `space` counts them."""
    return sum(copy.size for copy in of_vm(operator.site(), operator.record("web01")).copies)


def test_the_screenshot_of_a_rehearsal_goes_where_its_copy_goes(operator: Operator) -> None:
    folder, archived = operator.nas / "web01", operator.nas / "archive" / "web01"
    image, when = b"\x89PNG\r\n\x1a\nimage", "2026-12-01T00:00:00Z"
    before = taken(operator)
    for stamp in (OLD, NEW):
        side = sidecar_files.read(folder, stamp)
        side = replace(
            side,
            rehearsed=Rehearsed(when, "beta", "good", "it ran", booted=True),
            screenshot=screenshots.keep(NasFiles(), folder, stamp, 30, image, when),
        )
        (folder / f"{stamp}.json").write_bytes(side.render())
    rows = {row["stamp"]: row for row in operator.json("copies", "web01")["copies"]}
    assert rows[NEW]["screenshot"] == str(folder / f"{NEW}.png")
    said = operator.admin("show", "web01").stdout
    assert f"what its guest showed then: {folder / NEW}.png" in said
    assert taken(operator) > before + 2 * len(image), "their sidecars are longer, too"
    assert operator.admin("verify", "web01").exit_code == 0
    (folder / f"{NEW}.png").write_bytes(image[:-1] + b"!")
    assert operator.admin("verify", "web01").exit_code == 0, "no copy is judged by its screenshot"
    assert operator.admin("archive", "web01").exit_code == 0
    assert sorted(path.name for path in archived.glob("*.png")) == [f"{OLD}.png", f"{NEW}.png"]
    assert not folder.exists()
    assert operator.admin("activate", "web01").exit_code == 0
    assert operator.admin("remove", "web01", OLD, "--yes").exit_code == 0
    assert [path.name for path in folder.glob("*.png")] == [f"{NEW}.png"]


@pytest.mark.parametrize("setting", ["memory", "=5", "--=5", "a b=1", "x;y=1"])
def test_a_setting_that_is_none(operator: Operator, setting: str) -> None:
    assert operator.admin("rehearse", "web01", "--boot", "--set", setting).exit_code == 2


@pytest.mark.parametrize("options", [("--set", "memory=512"), ("--wait", "120")])
def test_what_is_for_the_start_is_refused_without_a_start(
    operator: Operator, options: tuple[str, ...]
) -> None:
    for words in (options, (*options, "--dry-run")):
        refused = operator.admin("rehearse", "web01", *words)
        assert (refused.exit_code, "goes with --boot" in refused.stderr) == (2, True)
    assert operator.admin("rehearse", "web01", "--boot", "--dry-run", *options).exit_code == 0


def test_dry_runs_of_restore_and_rehearsal_start_nothing(operator: Operator) -> None:
    planned = operator.admin("rehearse", "web01", "--dry-run").stdout
    assert f"would read {NEW}" in planned
    assert "import it, and remove it" in planned
    assert (
        operator.admin("restore", "web01", "--copy", "20200101T000000Z-1", "--dry-run").exit_code
        == 2
    )


def test_that_the_newest_copy_is_damaged_or_gone_is_said_before_an_older_one_is_taken(
    operator: Operator,
) -> None:
    def latest(which: str = "latest") -> tuple[str, str]:
        chosen = choice.look_for(operator.site(), operator.record("web01"), which)
        return chosen.copy.stamp, chosen.doubt

    assert latest() == (NEW, "")
    image = operator.nas / "web01" / f"{NEW}.ova"
    image.write_bytes(image.read_bytes()[:-1])
    taken, doubt = latest()
    assert taken == OLD
    assert f"the newest copy {NEW} does not count: " in doubt
    assert f"Taken is {OLD}" in doubt
    assert f"warning: the newest copy {NEW}" in operator.admin("restore", "web01").stderr
    for file in (operator.nas / "web01").glob(f"{NEW}*"):
        file.unlink()
    assert latest()[1].startswith(f"the newest copy {NEW} is not there")
    assert latest(OLD) == (OLD, "")


def test_control_c_says_what_it_leaves_and_leaves_nothing(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shared.tasks.verification.check", interrupted)
    stopped = operator.admin("verify", "--all")
    assert stopped.exit_code == 130
    assert "interrupted: 0 copies were read" in stopped.stderr
    assert "nothing is left of it" in stopped.stderr
    record = operator.record("web01")
    assert (record.claim, record.leftovers) == (None, False)
