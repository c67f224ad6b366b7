"""pin, unpin and prune: what retention keeps and why, and that nobody's work is disturbed."""

import json
from pathlib import Path

import pytest

from shared.copies import catalogue
from shared.copies.copy_files import Permit
from shared.copies.sidecar_fields import Verified
from shared.host.errors import ExitCode, LockLostError, NasError
from shared.state.rules import vm_records
from shared.state.states import State
from shared.tasks import pruning
from tests.support.copies import BreakingFiles, PowerCutError, put_copy
from tests.unit.coordinator.conftest import Operator, copy, uuid

STAMPS = [f"2026112{day}T203800Z-{day}" for day in range(1, 6)]


@pytest.fixture
def web(site_with_database: Operator) -> Operator:
    """A VM with five copies and the rule to keep two."""
    operator = site_with_database
    operator.add_vms("web")
    operator.set("web", status=State.CLEAN, last_copy=copy(STAMPS[-1]))
    for stamp in STAMPS:
        put_copy(operator.nas / "web", stamp, sides={"vbox": b"<VirtualBox/>"})
    return operator


def left(directory: Path) -> list[str]:
    return [one.stamp for one in catalogue.read(directory, None).copies]


def test_a_dry_run_shows_each_copy_with_its_rule_and_changes_nothing(web: Operator) -> None:
    generation = web.database().head().generation
    result = web.admin("prune", "--dry-run")
    lines = [line.split(maxsplit=4) for line in result.stdout.splitlines()[1:]]
    assert [(line[1], line[-1]) for line in lines] == [
        (STAMPS[4], "newest good copy, last"),
        (STAMPS[3], "last"),
        *((stamp, "no rule: would be removed") for stamp in (STAMPS[2], STAMPS[1], STAMPS[0])),
    ]
    assert (left(web.nas / "web"), web.database().head().generation) == (STAMPS, generation)


def test_what_no_rule_keeps_goes_with_all_its_files(web: Operator) -> None:
    document = web.json("prune", "web")
    assert [
        (one["stamp"], one["keep"], one["removed"]) for one in document["vms"][0]["copies"]
    ] == [(stamp, stamp in STAMPS[3:], stamp not in STAMPS[3:]) for stamp in reversed(STAMPS)]
    assert (
        sorted({path.name.partition(".")[0] for path in (web.nas / "web").iterdir()}) == STAMPS[3:]
    )
    assert (web.record("web").claim, web.record("web").status) == (None, State.CLEAN)
    assert [one["removed"] for one in web.json("prune", "web")["vms"][0]["copies"]] == [
        False,
        False,
    ]


def test_a_pinned_copy_stays_through_everything_until_it_is_unpinned(web: Operator) -> None:
    assert web.json("pin", "web", STAMPS[0])["changed"] is True
    assert web.json("pin", "web", STAMPS[0])["changed"] is False
    assert web.admin("prune").exit_code == 0
    assert left(web.nas / "web") == [STAMPS[0], *STAMPS[3:]]
    assert [row["stamp"] for row in web.json("copies", "web")["copies"] if row["pinned"]] == [
        STAMPS[0]
    ]

    assert web.admin("archive", "web").exit_code == 0
    assert web.json("unpin", "web", STAMPS[0])["changed"] is True, (
        "archived copies can be pinned and unpinned"
    )
    assert web.json("pin", "web", STAMPS[0])["changed"] is True
    assert web.admin("activate", "web").exit_code == 0
    web.commit(lambda contents: vm_records.forget(contents, "web"))
    web.add_vms("web")  # the database knows nothing any more
    assert web.admin("prune").exit_code == 0
    assert STAMPS[0] in left(web.nas / "web")

    assert web.json("unpin", "web", STAMPS[0])["changed"] is True
    assert web.admin("prune").exit_code == 0
    assert left(web.nas / "web") == STAMPS[3:]
    assert f"copy {STAMPS[0]} unpinned" in web.admin("log").stdout


def test_dry_runs_of_pins_change_nothing(web: Operator) -> None:
    assert "would be pinned" in web.admin("pin", "web", STAMPS[0], "--dry-run").stdout
    assert not catalogue.read(web.nas / "web", None).copies[0].pinned


@pytest.mark.parametrize("command", ["pin", "unpin"])
def test_a_copy_that_is_not_there_is_named(web: Operator, command: str) -> None:
    result = web.admin(command, "web", "20200101T000000Z-1")
    assert result.exit_code == ExitCode.USAGE
    assert "web has no copy 20200101T000000Z-1" in result.stderr
    latest = web.admin(command, "web", "latest").stderr
    assert "needs the stamp itself" in latest
    assert "`vmbackup-admin copies web`" in latest


def test_a_damaged_copy_is_kept_and_pinned_ones_use_up_no_place(web: Operator) -> None:
    put_copy(web.nas / "web", STAMPS[2], verified=Verified("2026-12-01T00:00:00Z", "digest wrong"))
    web.admin("pin", "web", STAMPS[4])
    web.admin("prune")
    assert left(web.nas / "web") == STAMPS[1:]


def test_archived_copies_are_out_of_it(web: Operator) -> None:
    web.admin("archive", "web")
    assert web.admin("prune", "web").exit_code == ExitCode.STATE_REFUSED
    assert web.json("prune")["vms"] == []
    assert left(web.nas / "archive" / "web") == STAMPS


def test_a_full_nas_is_said_and_is_no_lack_of_copies(
    web: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise NasError("No space left on device", hint="the NAS is full")

    monkeypatch.setattr(pruning, "prune", full)
    result = web.admin("prune")
    assert (result.exit_code, result.stdout, left(web.nas / "web")) == (ExitCode.NAS, "", STAMPS)
    assert "web: No space left on device (the NAS is full)" in result.stderr


@pytest.mark.parametrize("obstacle", ["claim", "publishing", "moving"])
def test_nothing_is_removed_while_somebody_works_on_the_vm(web: Operator, obstacle: str) -> None:
    with web.session() as session:
        if obstacle == "claim":
            web.claim(session, "web")
        else:
            web.set("web", **{obstacle: copy() if obstacle == "publishing" else "activate"})
        for arguments in (("prune", "web"), ("pin", "web", STAMPS[0])):
            assert web.admin(*arguments).exit_code == ExitCode.LOCKED
        result = web.admin("prune")
        assert (result.exit_code, left(web.nas / "web")) == (0, STAMPS)
        assert "web: " in result.stderr


def test_vms_of_other_hosts_are_pruned_only_when_they_are_named(web: Operator) -> None:
    web.add_vms("db", node="beta")
    for stamp in STAMPS:
        put_copy(web.nas / "db", stamp, uuid=uuid(1))
    assert [one["name"] for one in web.json("prune")["vms"]] == ["web"]
    assert left(web.nas / "db") == STAMPS
    result = web.admin("prune", "db")
    assert "belongs to the host beta" in result.stderr
    assert left(web.nas / "db") == STAMPS[3:]


@pytest.mark.slow
def test_a_killed_prune_is_finished_by_the_next(web: Operator) -> None:
    for step in range(100):
        for stamp in STAMPS:
            put_copy(web.nas / "web", stamp, sides={"vbox": b"<VirtualBox/>"})
        site = web.site()
        site.files = BreakingFiles(step)
        try:
            with site.database.session("prune") as session:
                pruning.prune(site, session, "web")
        except PowerCutError:
            assert left(web.nas / "web")[-2:] == STAMPS[3:]
            web.admin("prune")
            assert left(web.nas / "web") == STAMPS[3:]
            assert len(list((web.nas / "web").iterdir())) == 8
            continue
        assert step >= 20
        return
    pytest.fail("it never ended")


def test_one_that_was_displaced_removes_nothing_more(web: Operator) -> None:
    site = web.site()

    class Displacing(BreakingFiles):
        def remove_published(self, permit: Permit, name: str) -> None:
            super().remove_published(permit, name)
            web.set("web", claim=None)

    site.files = Displacing(1000)
    with pytest.raises(LockLostError), site.database.session("prune") as session:
        pruning.prune(site, session, "web")
    assert left(web.nas / "web") == STAMPS[1:]


def test_the_rules_of_a_policy_are_used(web: Operator) -> None:
    web.settings['policy."w*"'] = {"keep_last": 4}
    web.configure()
    assert json.loads(web.admin("prune", "--json").stdout)["vms"][0]["copies"][3]["reasons"] == [
        "last"
    ]
    assert left(web.nas / "web") == STAMPS[1:]


def test_a_place_of_which_not_even_the_directory_above_is_there_is_refused(
    web: Operator, tmp_path: Path
) -> None:
    """A slip, or a disk that is not mounted: nothing is made there."""
    for command in (("restore", "web"), ("rehearse", "web"), ("restore", "web", "--disk", "1")):
        refused = web.admin(*command, "--to", str(tmp_path / "mnt/disk/vms"))
        assert refused.exit_code == ExitCode.USAGE, refused.output
        assert f"there is no directory {tmp_path / 'mnt/disk'}" in refused.stderr
        assert "hint: " in refused.stderr
    assert not (tmp_path / "mnt").exists()
