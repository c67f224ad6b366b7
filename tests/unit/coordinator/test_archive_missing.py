"""An archive that is not there is never taken for an empty one, and what is in a record is never
taken for a path.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest

from shared.copies import archive_location
from shared.copies.archive_marker import ARCHIVE_MARKER
from shared.host.errors import ExitCode, NasError
from shared.state import formats
from shared.state.states import State
from shared.tasks.partial_files import remove_partial_files
from tests.support.copies import put_copy
from tests.unit.coordinator.conftest import WHEN, Operator, copy, uuid

STAMP = "20261122T203800Z-17"


@pytest.fixture
def operator(site_with_database: Operator) -> Operator:
    """`old` is archived, `web` is not; both have a copy."""
    operator = site_with_database
    operator.add_vms("web", "old")
    operator.set("web", status=State.CLEAN, last_copy=copy(STAMP))
    operator.set("old", status=State.ARCHIVED, last_copy=copy(STAMP))
    put_copy(operator.nas / "web", STAMP, b"web")
    put_copy(operator.nas / "archive" / "old", STAMP, b"old", uuid=uuid(1))
    return operator


def unmount(operator: Operator) -> None:
    """The archive was a mount of its own: what was below it, an empty directory, comes to light."""
    os.rename(operator.nas / "archive", operator.folder / "unmounted")
    (operator.nas / "archive").mkdir()


def mount(operator: Operator) -> None:
    shutil.rmtree(operator.nas / "archive")
    os.rename(operator.folder / "unmounted", operator.nas / "archive")


def seen(operator: Operator) -> None:
    """This host has looked at the archive before."""
    assert operator.admin("copies").exit_code == ExitCode.DONE
    operator.site().prepare_archive()
    operator.set("old", last_copy=None)


def unmarked(operator: Operator) -> None:
    """027e4e6 wrote no marker: only what the database says tells that something is missing."""
    (operator.nas / "archive" / ARCHIVE_MARKER).unlink()
    operator.commit(lambda contents: replace(contents, format=formats.FIRST))


@pytest.mark.parametrize(
    "history", [seen, unmarked], ids=["seen by this host", "of an older program"]
)
def test_while_the_archive_is_not_mounted_nothing_is_said_or_done_as_if_it_were(
    operator: Operator, history: Callable[[Operator], None]
) -> None:
    history(operator)
    unmount(operator)
    before = operator.record("old")
    refused = (
        *(
            ("activate", "old"),
            ("activate", "old", "--dry-run"),
            ("archive", "web"),
            ("archive", "web", "--dry-run"),
        ),
        *(
            ("verify", "old"),
            ("restore", "old"),
            ("restore", "old", "--dry-run"),
            ("pin", "old", STAMP),
            ("copies", "old"),
            ("show", "old"),
        ),
    )
    for command in refused:
        result = operator.admin(*command)
        assert (result.exit_code, str(operator.nas / "archive") in result.stderr) == (
            ExitCode.NAS,
            True,
        ), (command, result.output)
        assert "no copies yet" not in result.stdout
    assert operator.record("old") == before
    assert os.listdir(operator.nas / "archive") == []
    listed = operator.admin("copies")
    assert (listed.exit_code, "web" in listed.stdout, "not mounted" in listed.stderr) == (
        ExitCode.NAS,
        True,
        True,
    )
    rows = json.loads(operator.admin("copies", "--json").stdout)
    assert ([row["vm"] for row in rows["copies"]], len(rows["warnings"])) == (["web"], 1)
    for command in (
        ("copies", "web"),
        ("show", "web"),
        ("prune", "web"),
        ("pin", "web", STAMP),
        ("status",),
    ):
        assert operator.admin(*command).exit_code == ExitCode.DONE, command
    mount(operator)
    assert operator.admin("activate", "old").exit_code == ExitCode.DONE
    assert (operator.nas / "old" / f"{STAMP}.ova").read_bytes() == b"old"


def test_a_database_of_a_newer_format_demands_the_marker_of_every_host_and_its_upgrade_writes_it(
    operator: Operator,
) -> None:
    unmarked(operator)
    assert operator.site().archive == operator.nas / "archive"
    unmount(operator)
    assert operator.admin("statedb", "upgrade").exit_code == ExitCode.NAS
    mount(operator)
    assert operator.admin("statedb", "upgrade").exit_code == ExitCode.DONE
    (operator.nas / "archive" / ARCHIVE_MARKER).unlink()
    shutil.rmtree(operator.folder / "state-alpha")
    with pytest.raises(NasError, match=ARCHIVE_MARKER):
        _ = operator.site().archive


def test_a_database_that_is_made_anew_does_not_take_the_archive_of_the_old_one(
    operator: Operator,
) -> None:
    shutil.rmtree(operator.vmstate)
    shutil.rmtree(operator.folder / "state-alpha", ignore_errors=True)
    marker = operator.nas / "archive" / ARCHIVE_MARKER
    before = marker.read_bytes()
    refused = operator.admin("init")
    assert (refused.exit_code, f"remove {marker}" in refused.stderr) == (ExitCode.NAS, True)
    assert (marker.read_bytes(), operator.vmstate.exists()) == (before, False)
    marker.unlink()  # the cure that the hint names
    assert operator.admin("init").exit_code == ExitCode.DONE
    assert marker.read_bytes() != before


def test_leftovers_beside_live_copies_go_and_the_mark_stays_until_the_archive_is_there(
    operator: Operator,
) -> None:
    partial = operator.nas / "web" / ".20261123T203800Z-18.18.partial.ova"
    partial.write_bytes(b"half")
    operator.set("web", leftovers=True)
    operator.commit(lambda contents: replace(contents, claims_granted=100))
    unmarked(operator)
    unmount(operator)
    assert remove_partial_files(operator.site(), operator.contents, "database") == [partial.name]
    assert operator.record("web").leftovers
    mount(operator)
    remove_partial_files(operator.site(), operator.contents, "database")
    assert not operator.record("web").leftovers


@pytest.mark.parametrize(
    "directory",
    ["../outside", "/{folder}/outside", ".", "..", "vmstate", "VMSTATE", "a/b", "web\0"],
)
@pytest.mark.parametrize("status", [State.CLEAN, State.ARCHIVED])
def test_a_record_whose_directory_is_no_plain_name_is_reported_and_no_path_is_made_of_it(
    operator: Operator, directory: str, status: State
) -> None:
    for stamp in ("20261121T203800Z-16", STAMP, "20261123T203800Z-18"):
        put_copy(operator.folder / "outside", stamp, stamp.encode())
    operator.set(
        "web", directory=directory.format(folder=operator.folder), status=status, missing_since=WHEN
    )
    for command in (
        ("prune", "web"),
        ("archive", "web"),
        ("activate", "web"),
        ("restore", "web"),
        ("verify", "web"),
        ("pin", "web", STAMP),
    ):
        result = operator.admin(*command)
        assert result.exit_code in {ExitCode.FAILURE, ExitCode.STATE_REFUSED}, (
            command,
            result.output,
        )
        assert "unexpected" not in result.stderr
    for command in (("copies",), ("show", "web")):
        assert "no path is made of it" in operator.admin(*command).stderr
    assert len(list((operator.folder / "outside").glob("*.ova"))) == 3
    assert operator.admin("verify", "--all").exit_code in {ExitCode.DONE, ExitCode.SOME_FAILED}
    assert operator.admin("forget", "web").exit_code == ExitCode.DONE


def test_an_archive_that_does_not_answer_is_asked_once_and_live_copies_stay_in_reach(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def hang(place: object, _seconds: float) -> bool:
        asked.append(place)
        raise NasError(f"the NAS at {place} did not answer")

    site = operator.site()
    monkeypatch.setattr(archive_location, "is_there", hang)
    for key in ("web", "old"):
        places, problems = site.all_directories(operator.record(key))
        assert (places, len(problems)) == ([(operator.nas / key, False)], 1)
    assert (asked, site.floor("web")) == ([operator.nas / "archive"], 17)
    with pytest.raises(NasError, match="did not answer"):
        list(site.directories(operator.record("old")))
    assert list(site.directories(operator.record("web"))) == [(operator.nas / "web", False)]
