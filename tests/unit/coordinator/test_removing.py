"""remove: one copy goes because an operator says so, and what is left of the VM's copies is
committed.
"""

from pathlib import Path

import pytest

from shared.copies.sidecar_fields import Verified
from shared.host.errors import ExitCode
from shared.state.states import State
from shared.tasks import pruning
from tests.support.copies import BreakingFiles, PowerCutError, put_copy
from tests.unit.coordinator.conftest import Operator, copy, uuid

OLD, NEW = (
    "20261122T203800Z-17",
    "20261123T203800Z-1",
)  # the counter began again: their order is disputed
DAMAGED = Verified("2026-12-01T00:00:00Z", "digest wrong")


@pytest.fixture
def web(site_with_database: Operator) -> Operator:
    """A VM with two copies of which it is disputed which is newer."""
    operator = site_with_database
    operator.add_vms("web")
    operator.set("web", status=State.CLEAN, last_copy=copy(NEW))
    for stamp in (OLD, NEW):
        put_copy(operator.nas / "web", stamp, sides={"vbox": b"<VirtualBox/>"})
    return operator


def left(directory: Path) -> list[str]:
    return sorted({path.name.partition(".")[0] for path in directory.glob("2*")})


def test_disputed_copies_stay_are_told_of_and_one_removal_ends_it(web: Operator) -> None:
    web.settings["backup"] = {"keep_last": 1}
    web.configure()
    result = web.admin("prune", "web")
    assert left(web.nas / "web") == [OLD, NEW]
    assert "order of 2 copies unknown" in result.stderr
    assert web.record("web").order_unknown == (OLD, NEW)
    assert "vmbackup-admin remove web STAMP" in web.admin("status").stdout
    assert "order of 2 copies unknown" in web.admin("show", "web").stdout
    assert web.admin("copies", "web").stdout.count("good, order unknown") == 2
    assert [row["order_unknown"] for row in web.json("status")["vms"]] == [[OLD, NEW]]

    document = web.json("remove", "web", OLD, "--yes")
    assert (document["stamp"], document["archived"], document["status"]) == (OLD, False, "CLEAN")
    assert left(web.nas / "web") == [NEW]
    assert (web.record("web").order_unknown, web.record("web").claim) == ((), None)
    assert "unknown" not in web.admin("status").stdout


def test_the_copy_that_made_it_clean_takes_that_with_it(web: Operator) -> None:
    assert web.json("remove", "web", NEW, "--yes")["status"] == "BACKUP_NECESSARY"
    record = web.record("web")
    assert record.last_copy is not None
    assert (record.last_copy.stamp, record.status) == (OLD, State.BACKUP_NECESSARY)


def test_the_last_good_copy_goes_only_if_that_is_said(web: Operator) -> None:
    put_copy(web.nas / "web", OLD, verified=DAMAGED)
    result = web.admin("remove", "web", NEW, "--yes")
    assert (result.exit_code, "last good copy" in result.stderr) == (ExitCode.STATE_REFUSED, True)
    assert web.admin("remove", "web", OLD, "--yes").exit_code == 0, "damaged ones go"
    assert web.admin("remove", "web", NEW, "--yes", "--last").exit_code == 0
    assert (left(web.nas / "web"), web.record("web").last_copy) == ([], None)


def test_a_pinned_copy_is_refused_with_the_command_that_unpins_it(web: Operator) -> None:
    web.admin("pin", "web", OLD)
    assert f"`vmbackup-admin unpin web {OLD}`" in web.admin("remove", "web", OLD, "--yes").stderr


def test_what_is_not_there_pinned_or_of_another_vm_is_refused(web: Operator) -> None:
    put_copy(web.nas / "web", "20261120T203800Z-3", uuid=uuid(7))
    web.admin("pin", "web", OLD)
    for stamp, code in (
        ("20261120T203800Z-3", ExitCode.STATE_REFUSED),
        (OLD, ExitCode.STATE_REFUSED),
        ("20200101T000000Z-1", ExitCode.USAGE),
        ("../web", ExitCode.USAGE),
        ("latest", ExitCode.USAGE),
    ):
        assert web.admin("remove", "web", stamp, "--yes", "--last").exit_code == code
        assert web.admin("remove", "web", stamp, "--dry-run").exit_code == code
    assert web.admin("remove", "nobody", OLD, "--yes").exit_code == ExitCode.USAGE
    assert len(left(web.nas / "web")) == 3


def test_a_copy_that_cannot_tell_whose_it_is_stays_where_two_vms_share_a_directory(
    web: Operator,
) -> None:
    (web.nas / "web" / f"{OLD}.json").write_text("{")
    web.add_vms("db")
    web.set("db", directory="Web")
    assert web.admin("remove", "web", OLD, "--yes").exit_code == ExitCode.STATE_REFUSED
    web.set("db", directory="db")
    assert web.admin("remove", "web", OLD, "--yes").exit_code == 0
    assert left(web.nas / "web") == [NEW]


def test_archived_copies_can_be_removed(web: Operator) -> None:
    web.admin("archive", "web")
    assert web.json("remove", "web", OLD, "--yes")["archived"] is True
    assert (left(web.nas / "archive" / "web"), web.record("web").status) == ([NEW], State.ARCHIVED)


def test_nobody_is_disturbed_and_a_dry_run_changes_nothing(web: Operator) -> None:
    before = web.contents
    assert "would remove" in web.admin("remove", "web", OLD, "--dry-run").stdout
    with web.session() as session:
        web.claim(session, "web")
        assert web.admin("remove", "web", OLD, "--yes").exit_code == ExitCode.LOCKED
    assert (left(web.nas / "web"), before.vms["web"].last_copy) == ([OLD, NEW], copy(NEW))


def test_at_a_terminal_it_asks_and_elsewhere_it_wants_to_be_told(
    web: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert web.admin("remove", "web", OLD).exit_code == ExitCode.USAGE
    asked: list[str] = []

    def answer(reply: bool) -> None:
        monkeypatch.setattr(
            "coordinator.confirming.confirmed",
            lambda question, **_: bool(asked.append(question)) or reply,
        )

    answer(False)
    assert web.admin("remove", "web", OLD).exit_code == ExitCode.FAILURE
    assert left(web.nas / "web") == [OLD, NEW]
    answer(True)
    assert web.admin("remove", "web", OLD).exit_code == 0
    assert left(web.nas / "web") == [NEW]
    assert [f"Remove {OLD}" in question for question in asked] == [True, True]


@pytest.mark.slow
def test_killed_at_any_point_the_same_command_finishes_it(web: Operator) -> None:
    for step in range(40):
        for stamp in (OLD, NEW):
            put_copy(web.nas / "web", stamp, sides={"vbox": b"<VirtualBox/>"})
        site = web.site()
        site.files = BreakingFiles(step)
        try:
            with site.database.session("remove") as session:
                pruning.remove(site, session, "web", OLD)
        except PowerCutError:
            assert NEW in left(web.nas / "web")
            web.admin("remove", "web", OLD, "--yes")
            assert left(web.nas / "web") == [NEW]
            continue
        assert step >= 5
        return
    pytest.fail("it never ended")
