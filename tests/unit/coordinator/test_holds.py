"""A copy from which a VM runs: nothing that programs do by themselves, and no command, takes it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.booting import boot_hold as boot_holds
from shared.copies import catalogue, sidecar_files
from shared.copies.copy_files import NasFiles
from shared.host.errors import CopyError, ExitCode, IllegalMoveError, LockedError
from shared.state.hold import Hold
from shared.state.records import Power
from shared.state.rules import holds as rules
from shared.state.rules import sightings, vm_records
from shared.state.rules.sightings import Sighting
from shared.state.states import State
from shared.tasks import copy_hold, finding_unlisted
from shared.tasks.boot_note import BootNote
from shared.tasks.copy_hold import Placed
from tests.support.copies import UUID, put_copy
from tests.unit.coordinator.conftest import WHEN, Operator, copy

STAMPS = [f"2026112{day}T203800Z-{day}" for day in range(1, 6)]
HELD = STAMPS[0]
TITLE = "alpha:web-now"
INDEX = "5" * 64


@pytest.fixture
def web(site_with_database: Operator) -> Operator:
    """A VM with five copies and the rule to keep two."""
    operator = site_with_database
    operator.add_vms("web")
    operator.set("web", status=State.CLEAN, last_copy=copy(STAMPS[-1]))
    for stamp in STAMPS:
        put_copy(operator.nas / "web", stamp)
    return operator


def place(operator: Operator, stamp: str = HELD, **values: Any) -> Placed:
    site = operator.site()
    record = vm_records.meant(site.database.head().contents, values.pop("vm", "web"))
    return copy_hold.place(site, record, stamp, **{"name": "web-now", "index": INDEX, **values})


def held(operator: Operator) -> list[tuple[str, str]]:
    """What the database says."""
    contents = operator.contents
    return [(each.hold.title, each.hold.stamp) for each in rules.of_all(contents)]


def marked(directory: Path) -> list[tuple[str, str]]:
    """What the sidecars say."""
    found = catalogue.read(directory, None).copies
    return [(hold.title, one.stamp) for one in found for hold in one.holds]


def left(directory: Path) -> list[str]:
    return [one.stamp for one in catalogue.read(directory, None).copies]


def test_a_hold_stands_in_the_record_and_in_the_sidecar(web: Operator) -> None:
    placed = place(web)
    assert placed.marked
    assert held(web) == marked(web.nas / "web") == [(TITLE, HELD)]
    assert web.record("web").claim is None
    assert placed.hold.index == INDEX


def test_the_same_hold_again_goes_on_and_tells_the_uuid(web: Operator) -> None:
    first = place(web).hold
    place(web, uuid=UUID)
    (again,) = web.record("web").holds
    assert again == replace(first, uuid=UUID)
    assert sidecar_files.read(web.nas / "web", HELD).holds == (again,)


def test_other_bytes_and_another_copy_are_refused(web: Operator) -> None:
    place(web)
    with pytest.raises(IllegalMoveError, match="begun with other bytes"):
        place(web, index="6" * 64)
    with pytest.raises(LockedError, match=f"runs from {HELD} of web"):
        place(web, STAMPS[1])
    place(web, STAMPS[1], name="another")
    assert held(web) == [("alpha:another", STAMPS[1]), (TITLE, HELD)]


def test_a_copy_that_is_not_there_is_not_held(web: Operator) -> None:
    with pytest.raises(CopyError):
        place(web, "20261101T203800Z-1")
    assert held(web) == []


@pytest.mark.parametrize("purpose", ["prune", "archive", "activate"])
def test_while_copies_are_removed_or_moved_none_is_held(web: Operator, purpose: str) -> None:
    with web.session() as session:
        web.claim(session, "web", purpose)
        with pytest.raises(LockedError, match="being moved or removed"):
            place(web)
    assert held(web) == marked(web.nas / "web") == []


@pytest.mark.parametrize("purpose", ["backup", "verify"])
def test_who_works_on_the_vm_delays_the_mark_and_not_the_hold(web: Operator, purpose: str) -> None:
    with web.session() as session:
        web.claim(session, "web", purpose)
        assert not place(web).marked
    assert (held(web), marked(web.nas / "web")) == ([(TITLE, HELD)], [])
    record = web.record("web")
    assert not copy_hold.is_settled(web.site(), record)
    assert web.admin("prune", "web").exit_code == 0, "the record alone keeps it"
    assert HELD in left(web.nas / "web")
    with web.session() as session:
        copy_hold.settle(web.site(), session, "web")
    assert marked(web.nas / "web") == held(web) == [(TITLE, HELD)]
    assert copy_hold.is_settled(web.site(), web.record("web"))


def test_retention_leaves_it_and_keeps_as_many_others(web: Operator) -> None:
    place(web)
    assert web.admin("prune").exit_code == 0
    assert left(web.nas / "web") == [HELD, *STAMPS[3:]]


def test_the_mark_alone_keeps_it_too(web: Operator) -> None:
    place(web)
    web.set("web", holds=())
    assert web.admin("prune").exit_code == 0
    assert left(web.nas / "web") == [HELD, *STAMPS[3:]]
    assert held(web) == [(TITLE, HELD)], "who looked at the copies took it over"


def test_an_end_frees_both(web: Operator) -> None:
    place(web)
    (mine,) = copy_hold.of(web.site(), name="web-now")
    assert copy_hold.end(web.site(), mine)
    assert held(web) == marked(web.nas / "web") == []
    assert copy_hold.of(web.site()) == []
    assert web.admin("prune").exit_code == 0
    assert left(web.nas / "web") == STAMPS[3:]
    assert copy_hold.end(web.site(), mine), "may be repeated"
    assert held(web) == []


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
@pytest.mark.parametrize("alone", ["both", "record", "sidecar"])
def test_of_two_that_run_from_one_copy_each_ends_its_own(
    web: Operator, order: tuple[str, str], alone: str
) -> None:
    """At 4b1b504 the hold of one hid that of the other, whose note went while its hold stayed."""
    record = web.record("web")
    notes = {}
    for name in ("one", "two"):
        words = (name, f"uuid of {name}", record.uuid, "web", HELD, INDEX)
        notes[name] = BootNote(web.folder / name, web.folder / "vms" / name, *words, (), WHEN)
        boot_holds.place(web.site(), record, notes[name])
    if alone == "record":
        whole = sidecar_files.read(web.nas / "web", HELD)
        sidecar_files.replace(NasFiles(), web.nas / "web", replace(whole, holds=()), 99)
    elif alone == "sidecar":
        web.set("web", holds=())
    for name, left in ((order[0], {f"alpha:{order[1]}"}), (order[1], set())):
        boot_holds.end(web.site(), notes[name])
        assert {title for title, _stamp in held(web)} <= left
        said = {title for title, _stamp in [*held(web), *marked(web.nas / "web")]}
        assert said == left


def test_an_end_while_somebody_works_is_noted_and_the_copy_stays_until_it_is_freed(
    web: Operator,
) -> None:
    place(web)
    (mine,) = copy_hold.of(web.site())
    with web.session() as session:
        web.claim(session, "web", "verify")
        assert not copy_hold.end(web.site(), mine)
        assert copy_hold.of(web.site()) == []
        assert marked(web.nas / "web") == [(TITLE, HELD)]
    assert web.admin("remove", "web", HELD, "--yes").exit_code == ExitCode.LOCKED
    with web.session() as session:
        copy_hold.settle(web.site(), session, "web")
    assert held(web) == marked(web.nas / "web") == []


def test_a_pin_beside_it_stays_when_it_ends(web: Operator) -> None:
    """For programs that know pins alone a held copy is pinned; an operator's pin is another."""
    place(web)
    (mine,) = copy_hold.of(web.site())
    text = (web.nas / "web" / f"{HELD}.json").read_text(encoding="utf-8")
    assert '"pinned": "held"' in text
    assert web.json("pin", "web", HELD)["changed"] is True
    copy_hold.end(web.site(), mine)
    assert next(row["pinned"] for row in web.json("copies", "web")["copies"]) is True
    assert web.json("unpin", "web", HELD)["changed"] is True
    assert '"pinned"' not in (web.nas / "web" / f"{HELD}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("alone", ["both", "record", "sidecar"])
@pytest.mark.parametrize("command", [("archive", "web"), ("remove", "web", HELD, "--yes")])
def test_what_would_take_it_away_is_refused(
    web: Operator, command: tuple[str, ...], alone: str
) -> None:
    place(web)
    if alone == "record":
        whole = sidecar_files.read(web.nas / "web", HELD)
        sidecar_files.replace(NasFiles(), web.nas / "web", replace(whole, holds=()), 99)
    elif alone == "sidecar":
        web.set("web", holds=())
    for arguments in ([*command, "--dry-run"], command):
        result = web.admin(*arguments)
        assert result.exit_code == ExitCode.LOCKED, result.output
        assert "held by web-now on alpha, which runs from it, since 20" in result.stderr
        assert f"vmbackup-lock break {TITLE} --force" in result.stderr
    assert left(web.nas / "web") == STAMPS
    assert web.record("web").status == State.CLEAN


def test_a_held_vm_is_not_forgotten(web: Operator) -> None:
    place(web)
    for arguments in (("forget", "web", "--dry-run"), ("forget", "web")):
        result = web.admin(*arguments)
        assert (result.exit_code, "held by web-now on alpha" in result.stderr) == (
            ExitCode.LOCKED,
            True,
        )
    assert held(web) == [(TITLE, HELD)]


def test_an_archived_copy_can_be_held_and_is_not_activated_then(web: Operator) -> None:
    assert web.admin("archive", "web").exit_code == 0
    place(web)
    assert web.admin("activate", "web").exit_code == ExitCode.LOCKED
    assert web.record("web").status == State.ARCHIVED
    (mine,) = copy_hold.of(web.site())
    assert copy_hold.end(web.site(), mine)
    assert web.admin("activate", "web").exit_code == 0


def test_it_goes_with_a_vm_that_is_renamed(web: Operator) -> None:
    place(web)
    seen = [Sighting(UUID, "www", "web")]
    web.commit(lambda contents: sightings.sight(contents, "alpha", seen, WHEN))
    assert [each.hold.stamp for each in rules.of_all(web.contents) if each.vm == "www"] == [HELD]
    assert web.admin("prune").exit_code == 0
    assert HELD in left(web.nas / "web")


def test_copies_without_a_record_have_one_as_long_as_one_is_held(web: Operator) -> None:
    web.commit(lambda contents: vm_records.forget(contents, "web"))
    site = web.site()
    (record,) = finding_unlisted.find(site, site.database.head().contents).records
    placed = copy_hold.place(site, record, HELD, name="web-now", index=INDEX)
    assert placed.marked
    assert held(web) == [(TITLE, HELD)]
    assert web.admin("remove", UUID, HELD, "--yes").exit_code == ExitCode.LOCKED
    assert web.admin("archive", UUID).exit_code == ExitCode.LOCKED
    assert copy_hold.end(web.site(), copy_hold.of(web.site())[0])
    assert web.contents.vms == {}, "the record goes with its last hold"


def test_what_a_backup_did_to_a_vm_of_a_host_that_is_gone_delays_no_mark(web: Operator) -> None:
    power = Power("savestate", "running", 7, node="beta")
    web.set("web", power=power)
    assert place(web).marked
    assert web.record("web").power == power


def test_a_hold_is_read_and_written_with_what_is_not_known_of_it(web: Operator) -> None:
    later = Hold.from_json(
        {"stamp": HELD, "node": "alpha", "name": "x", "since": WHEN, "colour": "red"}
    )
    web.set("web", holds=(later,))
    with web.session() as session:
        copy_hold.settle(web.site(), session, "web")
    (hold,) = sidecar_files.read(web.nas / "web", HELD).holds
    assert hold.to_json()["colour"] == "red"


def test_marks_that_nobody_writes_do_not_come_into_the_database(web: Operator) -> None:
    """Each would make each generation longer by as much."""
    file = web.nas / "web" / f"{HELD}.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    mark = {"stamp": HELD, "node": "beta", "name": "x" * 200_000, "since": WHEN}
    file.write_text(json.dumps({**told, "holds": [mark]}), encoding="utf-8")
    web.admin("prune")
    web.admin("verify", "web")
    assert web.record("web").holds == ()
    assert HELD in {copy.stamp for copy in catalogue.read(web.nas / "web", None).copies}
    rows = {row["stamp"]: row for row in web.json("copies", "web")["copies"]}
    assert rows[HELD]["problem"]
