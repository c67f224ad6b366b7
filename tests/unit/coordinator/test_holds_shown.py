"""What commands say of a copy from which a VM runs, and how a person ends that."""

from dataclasses import replace

import pytest

from coordinator.doctor import unfinished
from coordinator.lock import program as lock
from shared.copies import sidecar_files
from shared.copies.copy_files import NasFiles
from shared.host.errors import ExitCode
from shared.state.rules import vm_records
from tests.support.copies import UUID
from tests.unit.coordinator.conftest import Operator
from tests.unit.coordinator.test_holds import HELD, STAMPS, TITLE, held, marked, place, web

__all__ = ["web"]
LOSS = "what the guest of web-now on alpha has written since "


def without_mark(web: Operator) -> None:
    whole = sidecar_files.read(web.nas / "web", HELD)
    sidecar_files.replace(NasFiles(), web.nas / "web", replace(whole, holds=()), 99)


def test_a_list_of_locks_has_the_holds(web: Operator) -> None:
    since = place(web).hold.since
    (row,) = web.json("list", program=lock)["holds"]
    assert (row["name"], row["vm"], row["stamp"]) == (TITLE, "web", HELD)
    assert (row["host"], row["guest"], row["since"]) == ("alpha", "web-now", since)
    shown = web.lock("list").stdout
    assert f"{TITLE}: {HELD} of web" in shown
    assert "on alpha: vmbackup-admin boot --finish web-now, or --discard web-now" in shown
    assert f"{TITLE}: {HELD} of web" in web.lock("show", TITLE).stdout
    assert f"{TITLE}: {HELD} of web" in web.lock("show", "web").stdout


def test_without_force_nothing_ends_it(web: Operator) -> None:
    place(web)
    for name in (TITLE, "web"):
        result = web.lock("break", name)
        assert result.exit_code == ExitCode.LOCKED, result.output
        assert LOSS in result.stderr
    assert held(web) == marked(web.nas / "web") == [(TITLE, HELD)]


@pytest.mark.parametrize("name", [TITLE, "web"])
def test_force_ends_it_and_says_what_is_lost(web: Operator, name: str) -> None:
    place(web)
    planned = web.lock("break", name, "--force", "--dry-run")
    assert (planned.exit_code, LOSS in planned.stdout) == (0, True)
    assert held(web) == [(TITLE, HELD)]
    result = web.lock("break", name, "--force")
    assert (result.exit_code, LOSS in result.stderr) == (0, True), result.output
    assert held(web) == marked(web.nas / "web") == []
    assert web.lock("break", "web", "--force").stdout == "web is not locked\n"


def test_of_several_one_has_to_be_named(web: Operator) -> None:
    place(web)
    place(web, STAMPS[1], name="other")
    result = web.lock("break", "web", "--force")
    assert result.exit_code == ExitCode.USAGE
    assert "alpha:other, alpha:web-now" in result.stderr
    assert web.lock("break", "alpha:other", "--force").exit_code == 0
    assert held(web) == [(TITLE, HELD)]


def test_a_lock_is_broken_and_the_hold_beside_it_stays(web: Operator) -> None:
    place(web)
    with web.session() as session:
        web.claim(session, "web", "verify")
        result = web.lock("break", "web", "--force")
    assert (result.exit_code, web.record("web").claim) == (0, None)
    assert held(web) == [(TITLE, HELD)]


@pytest.mark.parametrize("name", [TITLE, "web"])
def test_a_mark_of_which_the_database_does_not_know_is_found_and_ended(
    web: Operator, name: str
) -> None:
    place(web)
    web.set("web", holds=())
    assert web.lock("break", name).exit_code == ExitCode.LOCKED
    assert web.lock("break", name, "--force").exit_code == 0
    assert held(web) == marked(web.nas / "web") == []


def test_a_mark_on_a_copy_without_a_record_is_found_and_ended(web: Operator) -> None:
    place(web)
    web.set("web", holds=())
    web.commit(lambda contents: vm_records.forget(contents, "web"))
    assert web.lock("break", TITLE).exit_code == ExitCode.LOCKED
    assert web.lock("break", TITLE, "--force").exit_code == 0
    assert marked(web.nas / "web") == []
    assert web.contents.vms == {}


def test_while_somebody_works_the_end_is_noted_and_said_to_follow(web: Operator) -> None:
    place(web)
    with web.session() as session:
        web.claim(session, "web", "verify")
        result = web.lock("break", TITLE, "--force")
        assert result.exit_code == 0
        assert "the next database worker" in result.stdout
        (row,) = web.json("list", program=lock)["holds"]
        assert row["ended"]
        assert "takes its mark off the copy" in web.lock("list").stdout
    assert marked(web.nas / "web") == [(TITLE, HELD)]


def test_what_is_neither_is_said_to_be_neither(web: Operator) -> None:
    result = web.lock("break", "beta:nothing", "--force")
    assert result.exit_code == ExitCode.USAGE
    assert "neither a VM nor a session nor a hold nor `database`" in result.stderr


def test_copies_show_and_status_name_it(web: Operator) -> None:
    place(web)
    rows = {row["stamp"]: row for row in web.json("copies", "web")["copies"]}
    (one,) = rows[HELD]["holds"]
    assert (one["name"], one["host"], one["guest"]) == (TITLE, "alpha", "web-now")
    assert (one["recorded"], one["marked"], rows[HELD]["pinned"]) == (True, True, False)
    assert rows[STAMPS[1]]["holds"] == []
    assert "good, held by alpha:web-now" in web.admin("copies", "web").stdout
    shown = web.admin("show", "web").stdout
    assert "held by web-now on alpha, which runs from it, since" in shown
    status = web.json("status")["vms"][0]
    assert [each["name"] for each in status["holds"]] == [TITLE]
    assert f"its copy {HELD} is held by web-now on alpha" in web.admin("status").stdout


def test_the_log_tells_when_it_began_and_ended(web: Operator) -> None:
    place(web)
    web.lock("break", TITLE, "--force")
    events = [each for each in web.json("log", "--vm", "web")["events"] if each["copy"] == HELD]
    assert [each["kind"] for each in events] == ["held", "let-go"]
    assert f"{TITLE} runs from copy {HELD}" in web.admin("log").stdout
    commits = web.admin("log", "--commits").stdout
    assert f"web {HELD} held by {TITLE}" in commits
    assert f"web {HELD} let go by {TITLE}" in commits


def test_doctor_names_a_hold_of_which_this_host_knows_no_vm(web: Operator) -> None:
    place(web)
    (check,) = unfinished.examine_holds(web.site())
    assert (check.verdict, f"the copy {HELD} of web stays" in check.seen) == ("warn", True)
    assert f"vmbackup-lock break {TITLE} --force" in check.hint
    damaged = web.configuration.host.state_directory / f"boot-{'0' * 32}.json"
    damaged.write_text("{", encoding="utf-8")  # it may be that of the VM
    assert list(unfinished.examine_holds(web.site())) == []
    damaged.unlink()
    web.node = "beta"  # it is alpha's, which may know of it
    web.configure()
    assert list(unfinished.examine_holds(web.site())) == []


def test_what_only_one_of_the_two_knows_is_told(web: Operator) -> None:
    place(web)
    without_mark(web)
    assert "its .json does not say so yet" in web.admin("show", "web").stdout
    place(web)
    web.set("web", holds=())
    assert "the database does not know of it" in web.admin("show", "web").stdout
    assert "held by alpha:web-now" in web.admin("copies", "web").stdout


def test_a_copy_that_is_held_and_gone_is_missed(web: Operator) -> None:
    place(web)
    for path in (web.nas / "web").glob(f"{HELD}.*"):
        path.unlink()
    result = web.admin("show", "web")
    assert f"the copy {HELD} of web is not there, and is held by web-now on alpha" in result.stderr


def test_a_host_that_is_recovered_by_hand_keeps_its_hold(web: Operator) -> None:
    place(web)
    web.node = "beta"
    web.configure()
    assert web.lock("recover", "alpha").exit_code == 0
    assert held(web) == marked(web.nas / "web") == [(TITLE, HELD)]


def test_copies_without_a_record_are_shown_as_held(web: Operator) -> None:
    place(web)
    web.set("web", holds=())
    web.commit(lambda contents: vm_records.forget(contents, "web"))
    assert "held by web-now on alpha" in web.admin("show", UUID).stdout
