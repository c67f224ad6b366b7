"""A host died with unfinished work, and never comes back: `recover` settles it, from anywhere."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from click.testing import Result

from coordinator.lock import program as lock_program
from shared.host.errors import ExitCode
from shared.host.host_identity import HostIdentity
from shared.state.records import CopyRecord, Power
from shared.state.rules import claims
from shared.state.sessions.host_look_writing import VmsSeen, write_look
from shared.state.states import State
from shared.state.store.database import Database
from tests.support.copies import ova, put_copy
from tests.unit.coordinator.conftest import WHEN, Operator, copy

STAMP = "20261122T203800Z-17"
TOKEN, CLONE, SNAPSHOT = "0a0b" * 8, str(UUID(int=1)), str(UUID(int=2))
SAVED = Power("savestate", "running", 18, since=WHEN, node="beta")
NOTES = {
    "saved": SAVED,
    "shut down": Power("shutdown", "running", 18, since=WHEN, node="beta"),
    "live": Power("live", "running", 18, TOKEN, CLONE, SNAPSHOT, f"/vms/web/vmbackup-{TOKEN}"),
    "live, by an older release": Power("live", "running", 18),
}


def good(operator: Operator) -> CopyRecord:
    made = put_copy(operator.nas / "web", STAMP, ova())
    return CopyRecord(STAMP, 17, made.size, made.sha256, made.finished, made.fingerprint)


def publishing(operator: Operator) -> Mapping[str, Any]:
    return {"status": State.BACKUP_IN_PROGRESS, "publishing": good(operator), "last_copy": None}


def moving(operator: Operator) -> Mapping[str, Any]:
    return {"status": State.ARCHIVED, "moving": "archive", "moving_since": WHEN}


def touched(power: Power) -> Callable[[Operator], Mapping[str, Any]]:
    return lambda _: {"status": State.BACKUP_NECESSARY, "power": power}


def untidy(operator: Operator) -> Mapping[str, Any]:
    (operator.nas / "web" / f".{STAMP}.17.partial.ova").write_bytes(b"half")
    return {"leftovers": True, "leftovers_since": WHEN}


def everything(operator: Operator) -> Mapping[str, Any]:
    return {**untidy(operator), **publishing(operator), "power": SAVED}


KINDS: dict[str, Callable[[Operator], Mapping[str, Any]]] = {
    "publication": publishing,
    "move": moving,
    "partial files": untidy,
    "everything at once": everything,
    **{name: touched(power) for name, power in NOTES.items()},
}
COMMANDS = (
    ("pin", "web", STAMP),
    ("verify", "web"),
    ("prune", "web"),
    ("archive", "web"),
    ("forget", "web"),
)


@pytest.fixture
def web(site_with_database: Operator) -> Operator:
    """A VM of beta, with a copy."""
    operator = site_with_database
    operator.add_vms("web", node="beta")
    operator.set("web", status=State.CLEAN, last_copy=good(operator))
    operator.commit(lambda contents: claims.raise_numbers(contents, 18))
    return operator


def recover(operator: Operator, *options: str) -> Result:
    return operator.lock("recover", "beta", *options)


@pytest.mark.parametrize("kind", KINDS)
def test_all_is_settled_and_every_command_works_afterwards(web: Operator, kind: str) -> None:
    web.set("web", **KINDS[kind](web))
    result = recover(web)
    assert result.exit_code == ExitCode.DONE, result.output
    record = web.record("web")
    assert (record.claim, record.publishing, record.moving, record.power, record.leftovers) == (
        None,
        None,
        None,
        None,
        False,
    )
    assert not list((web.nas / "web").glob("*.partial.*"))
    archived = record.status == State.ARCHIVED
    for words in COMMANDS:
        if not (archived and words[0] in ("prune", "archive")):
            done = web.admin(*words)
            assert done.exit_code == ExitCode.DONE, (words, done.output)
    assert "web" not in web.contents.vms
    assert len(list(web.nas.rglob("*.ova"))) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_is_since_when_and_who_finishes_it_is_shown_before(
    web: Operator, kind: str
) -> None:
    web.set("web", **KINDS[kind](web))
    (listed, *_) = web.json("list", program=lock_program)["unfinished"]
    (row,) = web.json("status")["vms"]
    shown = web.json("show", "web")["vm"]
    assert row["unfinished"] == shown["unfinished"]
    assert row["unfinished"][0] == listed
    assert listed["vm"] == "web"
    assert listed["since"] is not None or not kind.startswith(("publ", "move", "saved", "part"))
    assert (listed["host"] == "beta") == (kind in NOTES)
    for each in row["unfinished"]:
        for output in (web.lock("list"), web.admin("show", "web"), web.admin("status")):
            words = " ".join(output.stdout.replace("│", " ").split())
            assert each["what"].split()[0] in words
            assert "goes on" in words


@pytest.mark.parametrize("name", NOTES)
def test_what_may_still_be_there_is_told_and_no_vm_is_touched(web: Operator, name: str) -> None:
    power = NOTES[name]
    web.set("web", power=power)
    planned = json.loads(recover(web, "--dry-run", "--json").stdout)
    assert web.record("web").power == power
    done = json.loads(recover(web, "--json").stdout)
    (left,) = done["left"]
    assert planned["left"] == done["left"]
    assert (left["vm"], left["node"], left["method"], left["found"]) == (
        "web",
        "beta",
        power.method,
        "running",
    )
    assert left["since"] == (power.since or None)
    for word in (power.clone, power.folder, power.tag if power.method == "live" else "startvm"):
        assert word in left["text"]
    again = recover(web)
    assert again.exit_code == ExitCode.DONE
    assert left["text"] in again.stdout, "a recover that was killed before it told can be repeated"
    assert web.json("status")["vms"][0]["power_left"] == left["text"]


def test_a_note_of_another_host_and_of_a_vm_that_is_held_stays(web: Operator) -> None:
    web.add_vms("db", node="gamma")
    web.set("db", power=SAVED)
    with web.session() as session:
        web.set("web", power=SAVED)
        web.claim(session, "web", "power")
        assert recover(web).exit_code == ExitCode.DONE
        assert (web.record("web").power, web.record("db").power) == (SAVED, SAVED)


@pytest.mark.parametrize("seconds", [0.0, 86400.0])
def test_a_host_that_looked_lately_keeps_its_notes(
    web: Operator, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    web.set("web", power=SAVED)
    site = web.site()
    identity = HostIdentity("beta", "elsewhere", "f" * 32, "boot", "space")
    web.commit(lambda contents: contents, "nothing")
    write_look(site.database.root / "node", identity, site.clock, VmsSeen((), (), ()), {})
    web.commit(
        lambda contents: (
            contents.with_node(type(contents.nodes["alpha"])("beta", "f" * 32, "elsewhere"))
            if "alpha" in contents.nodes
            else contents
        )
    )
    _age(web, seconds)
    result = recover(web)
    kept = seconds == 0
    assert result.exit_code == (ExitCode.LOCKED if kept else ExitCode.DONE), result.output
    assert (web.record("web").power == SAVED) == kept
    assert ("looked at its VMs" in result.stderr) == kept


def _age(operator: Operator, seconds: float) -> None:
    import os

    path = operator.vmstate / "node" / ".look-beta"
    status = path.stat()
    os.utime(path, (status.st_atime - seconds, status.st_mtime - seconds))


@pytest.mark.parametrize("kind", KINDS)
def test_killed_between_any_two_commits_it_can_be_repeated(
    web: Operator, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    web.set("web", **KINDS[kind](web))
    commit = Database.commit_once
    allowed = 0
    while True:
        with monkeypatch.context() as patch:
            left = [allowed]

            def limited(self: Database, *words: Any, left: list[int] = left) -> Any:
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                return commit(self, *words)

            patch.setattr(Database, "commit_once", limited)
            code = recover(web).exit_code
        if code == ExitCode.DONE:
            break
        assert allowed < 10
        allowed += 1
    final = recover(web)
    assert final.exit_code == ExitCode.DONE
    assert web.json("list", program=lock_program)["unfinished"] == []
    assert ("nobody" in final.stdout) == (kind in NOTES or kind == "everything at once")


def test_of_two_at_once_one_finishes_it_and_both_are_content(
    web: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shared.tasks import publication

    web.set("web", **everything(web))
    finish, others = publication.resume, []

    def overtaken(*words: Any) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(publication, "resume", finish)
            others.append(recover(web))
        return finish(*words)

    monkeypatch.setattr(publication, "resume", overtaken)
    mine = recover(web)
    assert [each.exit_code for each in (mine, *others)] == [ExitCode.DONE, ExitCode.DONE]
    assert "finished the publication of web" in others[0].stdout
    assert "finished" not in mine.stdout
    assert (web.record("web").status, web.record("web").power) == (State.CLEAN, None)


def test_one_whom_somebody_overtakes_leaves_the_vm_to_it(
    web: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shared.tasks import publication

    web.set("web", **publishing(web))
    finish = publication.resume
    with web.session() as session:

        def claimed(*words: Any) -> bool:
            session.commit(
                lambda contents: claims.grant(contents, "web", session.id, "publish", WHEN), "mine"
            )
            return finish(*words)

        monkeypatch.setattr(publication, "resume", claimed)
        assert recover(web).exit_code == ExitCode.DONE
        assert web.record("web").claim is not None


def test_what_cannot_be_finished_is_said_and_stays(
    web: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shared.host.errors import NasError

    web.set("web", **publishing(web))

    def refuse(*_: object) -> None:
        raise NasError("the NAS refuses it")

    monkeypatch.setattr("shared.copies.publishing.publish", refuse)
    result = recover(web, "--json")
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "the NAS refuses it" in result.stderr
    assert json.loads(result.stdout)["unfinished"] == {"web": "publication, partial files"}


def test_a_publication_whose_files_are_gone_is_given_up(web: Operator) -> None:
    web.set("web", **{**publishing(web), "publishing": copy("20261123T203800Z-18")})
    result = recover(web)
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "could not be put in place" in result.stderr
    assert (web.record("web").publishing, web.record("web").status) == (
        None,
        State.BACKUP_NECESSARY,
    )


@pytest.mark.parametrize("options", [(), ("--replaced",)])
def test_on_this_host_only_of_a_vm_that_it_does_not_have_any_more(
    web: Operator, options: tuple[str, ...]
) -> None:
    web.add_vms("mine", "deleted")
    power = Power("live", "running", 1, node="alpha")
    web.set("mine", power=power)
    web.set("deleted", power=power, missing_since=WHEN)
    assert web.lock("recover", "alpha", *options).exit_code == ExitCode.DONE
    assert (web.record("mine").power, web.record("mine").power_left) == (power, None)
    assert (web.record("deleted").power, web.record("deleted").power_left) == (None, power)


def test_on_its_own_host_what_may_be_off_is_known_when_it_was_told(web: Operator) -> None:
    web.add_vms("mine", "deleted")
    saved = replace(SAVED, node="alpha")
    web.set("mine", power_left=saved)
    web.set("deleted", power_left=saved, missing_since=WHEN)
    for told in (True, False):
        done = web.lock("recover")
        assert done.exit_code == ExitCode.DONE
        assert ("mine: a backup saved it" in done.stdout) == told
        assert "deleted: a backup saved it" in done.stdout, "it is not listed, so nobody can look"
    assert (web.record("mine").power_left, web.record("deleted").power_left) == (None, saved)


def test_a_directory_that_cannot_be_tidied_is_still_unfinished(web: Operator) -> None:
    web.set("web", **untidy(web))
    web.configure(archive_directory=str(web.folder / "elsewhere"))
    document = json.loads(recover(web, "--json").stdout)
    assert document["unfinished"] == {"web": "partial files"}
