"""A database is worked with in the format that it has, and brought into the newest one by one
commit.
"""

from collections.abc import Callable
from typing import Any

import pytest

from shared.host.errors import DatabaseVersionError, LockedError, NasError
from shared.state.store import inspection, repair, upgrade
from shared.state.store.database import Database
from shared.state.store.layout import generation_name
from shared.state.store.opening import open_database, read_version
from shared.state.store.operations import WriteTemporary
from shared.state.store.protocol import Author
from tests.support.formats import give_format
from tests.unit.state.builders import HERE, WHEN, StillClock, session
from tests.unit.state.test_database import BETA, add, elsewhere


@pytest.fixture
def old(database: Database) -> Database:
    """The database in the first format, in which generation 1 is."""
    give_format(database.root, "1.1")
    return open_database(database.root, HERE, StillClock())


def old_session(database: Database, state: str = "live", **identity: Any) -> None:
    """A session of program 0.1, on beta, commits."""
    row = session("beta.9.0a0a0a0a", state, node="beta", **identity)
    open_database(database.root, BETA, StillClock()).transact(
        Author(row, 1, WHEN, "an older program"), add("web02")
    )


def formats(database: Database) -> tuple[str, str]:
    return database.head().contents.format, read_version(database.root).database_version


@pytest.mark.parametrize("version", ["1.1", "1.4", "2.0", "2.3"])
def test_the_next_generation_has_the_format_of_the_one_before(
    database: Database, version: str
) -> None:
    give_format(database.root, version)
    here = open_database(database.root, HERE, StillClock())
    here.commit_once(add("web01"), "add", "test")
    with here.session("backup") as own:
        own.commit(add("web02"), "add")
    assert here.head().generation == 4
    assert formats(here) == (version, version)


def test_a_session_names_its_program_and_an_older_one_does_not(old: Database) -> None:
    with old.session("backup") as own:
        row = own.commit(add("web01"), "add").contents.sessions[own.id]
        assert row.program
        old_session(old)
        assert old.head().contents.sessions["beta.9.0a0a0a0a"].program == ""


def test_an_upgrade_is_one_commit_and_changes_nothing_else(old: Database) -> None:
    old.commit_once(add("web01"), "add", "test")
    before = old.head().contents
    upgrade.upgrade(old)
    assert formats(old) == ("2.0", "2.0")
    assert (old.head().generation, old.head().contents.vms) == (3, before.vms)
    assert inspection.inspect(old.root).findings == ()
    upgrade.upgrade(old)
    assert old.head().generation == 3, "a second time there is nothing to do"


def test_it_is_refused_while_an_older_program_lives(old: Database) -> None:
    old_session(old)
    prepared: list[bool] = []
    with pytest.raises(LockedError, match=r"beta\.9\.0a0a0a0a") as caught:
        upgrade.upgrade(old, lambda: prepared.append(True))
    assert "vmbackup-lock recover beta" in caught.value.hint
    assert (formats(old), prepared) == (("1.1", "1.1"), [])


@pytest.mark.broad
def test_it_is_refused_if_an_older_program_commits_meanwhile(
    old: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the next generation is taken.

    The transaction looks again, and finds that the older program lives.
    """
    perform = old.files.perform

    def overtaken(operation: Any) -> Any:
        if isinstance(operation, WriteTemporary) and ".view." not in operation.name:
            monkeypatch.setattr(old.files, "perform", perform)
            old_session(old)
        return perform(operation)

    monkeypatch.setattr(old.files, "perform", overtaken)
    with pytest.raises(LockedError):
        upgrade.upgrade(old)
    assert formats(old) == ("1.1", "1.1")
    assert "web02" in old.head().contents.vms


def test_an_ended_older_session_does_not_hold_it_up_nor_does_a_live_one_of_this_program(
    old: Database,
) -> None:
    old_session(old, "ended")
    with elsewhere(old).session("backup") as own:
        own.commit(add("web01"), "add")
        upgrade.upgrade(old)
        own.commit(add("web03"), "add")
    assert formats(old) == ("2.0", "2.0")
    assert {"web01", "web02", "web03"} == set(old.head().contents.vms)


def test_an_older_session_of_this_machine_that_is_gone_is_ended_first(old: Database) -> None:
    row = session(
        "alpha.9.0a0a0a0a",
        machine=HERE.machine,
        hostname=HERE.hostname,
        boot="an earlier one",
        space=HERE.space,
    )
    old.transact(Author(row, 1, WHEN, "an older program"), add("web02"))
    upgrade.upgrade(old)
    assert old.head().contents.sessions["alpha.9.0a0a0a0a"].state == "expired"
    assert formats(old) == ("2.0", "2.0")


def test_one_of_a_full_copy_of_this_machine_that_is_alive_holds_it_up(
    old: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = session(
        "alpha.9.0a0a0a0a",
        machine=HERE.machine,
        hostname=HERE.hostname,
        boot="that of the copy",
        space=HERE.space,
    )
    old.transact(Author(row, 1, WHEN, "an older program"), add("web02"))
    beat = old.root / "node" / row.id
    monkeypatch.setattr(old.clock, "sleep", lambda _: beat.write_text(beat.name))
    with pytest.raises(LockedError, match=r"alpha\.9\.0a0a0a0a"):
        upgrade.upgrade(old)
    assert formats(old) == ("1.1", "1.1")


def test_one_that_was_killed_before_the_version_file_is_finished(
    old: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(upgrade, "replace_version", killed)
    with pytest.raises(KeyboardInterrupt):
        upgrade.upgrade(old)
    monkeypatch.undo()
    assert formats(old) == ("2.0", "1.1")
    here = open_database(old.root, HERE, StillClock())
    here.commit_once(add("web01"), "add", "test")
    assert formats(here) == ("2.0", "1.1"), "the generation counts"
    found = inspection.inspect(old.root).findings
    assert [(finding.harmless, "statedb upgrade" in finding.hint) for finding in found] == [
        (True, True)
    ]
    upgrade.upgrade(here)
    assert formats(here) == ("2.0", "2.0")
    assert here.head().generation == 3, "no commit is needed"


def test_an_upgrade_whose_generation_was_damaged_and_set_aside_is_done_again(old: Database) -> None:
    upgrade.upgrade(old)
    (old.root / "gen" / generation_name(2)).write_bytes(b"torn")
    repair.set_aside(old.root, 2)
    here = open_database(old.root, HERE, StillClock())
    assert formats(here) == ("1.1", "2.0")
    assert "statedb upgrade" in inspection.inspect(old.root).findings[-1].hint
    upgrade.upgrade(here)
    assert formats(here) == ("2.0", "2.0")


def test_what_cannot_be_prepared_leaves_the_database_as_it_was(old: Database) -> None:
    def prepare() -> None:
        raise NasError("the archive is not mounted")

    with pytest.raises(NasError):
        upgrade.upgrade(old, prepare)
    assert formats(old) == ("1.1", "1.1")


def test_a_version_file_that_is_rebuilt_names_the_format_of_the_generations(old: Database) -> None:
    (old.root / "vmtool-db-version").write_bytes(b"torn")
    repair.rebuild_version(old.root)
    assert formats(old) == ("1.1", "1.1")


WRITERS: dict[str, Callable[[Database], object]] = {
    "commit": lambda database: database.commit_once(add("web01"), "add", "test"),
    "session": lambda database: database.session("backup").__enter__(),
    "view": lambda database: database.publish_view(),
    "upgrade": upgrade.upgrade,
    "set aside": lambda database: repair.set_aside(database.root, 1),
    "version file": lambda database: repair.rebuild_version(database.root),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(("generation", "file"), [(True, True), (True, False), (False, True)])
def test_whatever_writes_is_refused_by_a_database_of_a_newer_program(
    database: Database, write: Callable[[Database], object], generation: bool, file: bool
) -> None:
    give_format(database.root, "3.0", generation=generation, file=file)
    with pytest.raises(DatabaseVersionError, match=r"3\.0"):
        open_database(database.root, HERE, StillClock())
    here = open_database(database.root, HERE, StillClock(), reading=True)
    before = tree(database)
    assert here.head().contents.vms == {}
    assert "3.0" in here.warnings[0]
    with pytest.raises(DatabaseVersionError):
        write(here)
    assert tree(database) == before


def test_a_program_that_was_at_work_when_a_newer_one_came_commits_nothing(
    database: Database,
) -> None:
    with database.session("backup") as own:
        own.commit(add("web01"), "add")
        give_format(database.root, "3.0", file=False)
        before = {name for name in tree(database) if "gen" in name}
        with pytest.raises(DatabaseVersionError):
            own.commit(add("web02"), "add")
        assert {name for name in tree(database) if "gen" in name} == before
        give_format(database.root, "2.0")


def tree(database: Database) -> dict[str, tuple[int, bytes]]:
    """Everything that is there, to the bytes and the times."""
    return {
        str(path.relative_to(database.root)): (
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(database.root.rglob("*"))
    }
