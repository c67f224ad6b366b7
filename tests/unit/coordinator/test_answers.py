"""Commands that change something say in JSON what they did, and with --dry-run what they would do,
in the same words.
"""

from pathlib import Path

import pytest

from coordinator.lock import program as lock_program
from shared.state.states import State
from tests.unit.coordinator.conftest import Operator, uuid
from tests.unit.coordinator.test_reading import tree


@pytest.fixture
def web(site_with_database: Operator) -> Operator:
    site_with_database.add_vms("web")
    return site_with_database


def test_init(operator: Operator) -> None:
    places = {"schema": 1, "state": str(operator.vmstate), "archive": str(operator.nas / "archive")}
    assert operator.json("init", "--dry-run") == {**places, "dry_run": True}
    made = operator.json("init")
    version = operator.database().version
    assert made == {
        **places,
        "dry_run": False,
        "repository": version.repository,
        "primitive": version.primitive,
    }


def test_forget(web: Operator) -> None:
    forgotten = {
        "schema": 1,
        "vm": "web",
        "status": "NEW",
        "node": "alpha",
        "directory": str(web.nas / "web"),
        "uuid": uuid(0),
    }
    assert web.json("forget", "web", "--dry-run") == {**forgotten, "dry_run": True}
    assert web.json("forget", "web") == {**forgotten, "dry_run": False}
    assert "web" not in web.contents.vms


@pytest.mark.parametrize("purpose", ["archive", "activate"])
def test_what_archive_and_activate_would_move(web: Operator, purpose: str) -> None:
    if purpose == "activate":
        web.admin("archive", "web")
    before = tree(web.nas)
    shown = web.json(purpose, "web", "--dry-run")
    assert (shown["schema"], shown["vm"], shown["copies"], shown["dry_run"]) == (1, "web", [], True)
    assert tree(web.nas) == before


def test_what_verify_would_read(web: Operator) -> None:
    assert web.json("verify", "--all", "--dry-run")["copies"] == []


def test_adopt(web: Operator) -> None:
    (web.vmstate / "vmtool-statedb").write_text("web:RUNNING\n")
    planned = web.json("statedb", "adopt", "--dry-run")
    assert (planned["changed"], planned["dry_run"]) == (
        {"web": {"from": "NEW", "to": "RUNNING"}},
        True,
    )
    assert web.record("web").status == State.NEW
    done = web.json("statedb", "adopt")
    assert done == {**planned, "dry_run": False}
    assert web.record("web").status == State.RUNNING


def test_migrate(operator: Operator) -> None:
    operator.vmstate.mkdir()
    (operator.vmstate / "vmtool-statedb").write_text("vm1:RUNNING\n")
    before = tree(operator.nas)
    assert operator.json("statedb", "migrate", "--dry-run") == {
        "schema": 1,
        "vms": {"vm1": "RUNNING"},
        "dry_run": True,
    }
    assert tree(operator.nas) == before
    assert operator.json("statedb", "migrate") == {
        "schema": 1,
        "vms": {"vm1": "RUNNING"},
        "dry_run": False,
    }


def test_break(web: Operator) -> None:
    assert web.json("break", "web", program=lock_program) == {
        "schema": 1,
        "name": "web",
        "freed": False,
        "dry_run": False,
    }
    session = web.dead_session()
    web.claim(session, "web")
    planned = web.json("break", "web", "--dry-run", program=lock_program)
    assert (planned["kind"], planned["freed"]) == ("claim", False)
    assert "done again" in planned["consequence"]
    assert web.record("web").claim is not None
    assert web.json("break", "web", program=lock_program) == {
        "schema": 1,
        "name": "web",
        "freed": True,
        "dry_run": False,
        "kind": "claim",
    }
    assert web.record("web").claim is None


def test_recover(web: Operator, tmp_path: Path) -> None:
    session = web.dead_session()
    web.claim(session, "web")
    planned = web.json("recover", "--dry-run", program=lock_program)
    assert (planned["node"], planned["vms"], planned["dry_run"]) == ("alpha", ["web"], True)
    assert [row["id"] for row in planned["sessions"]] == [session.id]
    done = web.json("recover", program=lock_program)
    assert (planned["finished"], planned["left"]) == ({}, [])
    assert done == {**planned, "dry_run": False, "removed": [], "unfinished": {}}
    assert web.record("web").claim is None
