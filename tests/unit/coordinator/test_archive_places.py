"""Where the archive may not be, whatever it is called.

Nothing is moved, nothing is lost, and it is said.

A product: ways in which an archive directory leads somewhere else x commands. Links and bind mounts
are real.
"""

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shared.copies import archive_location as places
from shared.copies.archive_marker import ARCHIVE_MARKER, prepare_archive
from shared.copies.copy_files import NasFiles
from shared.host.errors import ExitCode
from shared.nas.overlap import Relation
from shared.state import formats
from shared.state.states import State
from tests.support.copies import put_copy
from tests.unit.coordinator.conftest import Operator, copy, uuid
from worker.new_directories import NewDirectories

STAMP = "20261122T203800Z-17"
OLDER = "20261121T203800Z-16"
REFUSED = {ExitCode.USAGE, ExitCode.NAS}

Bind = Callable[[Path, Path], None]


@pytest.fixture
def bind() -> Iterator[Bind]:
    """Mounts a directory at a second place, which is made; all go with the test."""
    if os.geteuid() != 0:
        pytest.skip("a bind mount needs root")
    mounted: list[Path] = []

    def bind(source: Path, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", source, place], check=True, stdin=subprocess.DEVNULL)
        mounted.append(place)

    yield bind
    for place in reversed(mounted):
        subprocess.run(["umount", place], check=True, stdin=subprocess.DEVNULL)


@pytest.fixture
def operator(site_with_database: Operator) -> Operator:
    """Two VMs with two copies each; `old` is archived, as 027e4e6 left it: without a marker."""
    operator = site_with_database
    operator.add_vms("web", "old")
    operator.set("web", status=State.CLEAN, last_copy=copy(STAMP))
    operator.set("old", status=State.ARCHIVED, last_copy=copy(STAMP))
    operator.commit(lambda contents: replace(contents, format=formats.FIRST))
    (operator.nas / "archive" / ARCHIVE_MARKER).unlink()
    for stamp in (OLDER, STAMP):
        put_copy(operator.nas / "web", stamp, f"web {stamp}".encode())
        put_copy(operator.nas / "archive" / "old", stamp, f"old {stamp}".encode(), uuid=uuid(1))
    return operator


def digests(folder: Path) -> set[str]:
    """What every `.ova` holds, wherever it is."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.ova")}


def records(operator: Operator) -> dict[str, tuple[State, object]]:
    """What the database says of the VMs and their copies."""
    return {key: (record.status, record.last_copy) for key, record in operator.contents.vms.items()}


# Ways that can be told from the names: whoever reads the configuration refuses them.
NAMES = {
    "the mount point": ".",
    "nothing": "",
    "the mount point, with a slash": "./",
    "the mount point's own path": "{nas}",
    "the mount point's own path, with a slash": "{nas}/",
    "the mount point, doubled slashes": "/{nas}//.",
    "down and up": "sub/..",
    "up and down": "../nas",
    "beside": "../x",
    "up from the path": "{nas}/../nas/archive",
    "vmstate": "vmstate",
    "in vmstate": "vmstate/gen",
    "vmstate, shouting": "VMSTATE",
    "vmstate's path": "{nas}/vmstate/",
    "above the mount point": "{above}",
    "the root": "/",
}
COMMANDS = (
    ("config", "validate"),
    ("init",),
    ("archive", "web"),
    ("activate", "old"),
    ("copies",),
    ("copies", "old"),
    ("restore", "old"),
    ("verify", "old"),
    ("prune", "web"),
    ("show", "old"),
    ("pin", "old", STAMP),
)


@pytest.mark.parametrize("way", NAMES)
def test_a_name_that_leads_elsewhere_is_refused_by_every_command(
    operator: Operator, way: str
) -> None:
    operator.configure(archive_directory=NAMES[way].format(nas=operator.nas, above=operator.folder))
    before, contents = digests(operator.folder), operator.database().head()
    for command in COMMANDS:
        result = operator.admin(*command)
        assert (result.exit_code, "nas.archive_directory: " in result.stderr) == (
            ExitCode.USAGE,
            True,
        ), (command, result.output)
    assert digests(operator.folder) == before
    assert operator.database().head() == contents


def test_the_environment_is_asked_like_the_file(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(operator.folder)
    for value in (str(operator.nas), f"{operator.nas}/", ".", "vmstate"):
        monkeypatch.setenv("ARCHIVE_DIR", value)
        assert operator.admin("archive", "web").exit_code == ExitCode.USAGE
    assert digests(operator.folder) == before
    assert operator.record("web").status == State.CLEAN


def link(to: str) -> Callable[[Operator, Bind], None]:
    """`elsewhere` is a link."""
    return lambda operator, _bind: (operator.folder / "elsewhere").symlink_to(
        to.format(nas=operator.nas, above=operator.folder)
    )


def mount(what: str) -> Callable[[Operator, Bind], None]:
    """`elsewhere` is a bind mount."""
    return lambda operator, bind: bind(
        Path(what.format(nas=operator.nas, above=operator.folder)), operator.folder / "elsewhere"
    )


#: Ways that only a look, or an experiment, tells. Some concern one VM only.
PLACES: dict[str, Callable[[Operator, Bind], None]] = {
    "a link to the NAS": link("{nas}"),
    "a link to vmstate": link("{nas}/vmstate"),
    "a link into vmstate": link("{nas}/vmstate/gen"),
    "a link to a VM's directory": link("{nas}/web"),
    "a link to what is above": link("{above}"),
    "a mount of the NAS": mount("{nas}"),
    "a mount of vmstate": mount("{nas}/vmstate"),
    "a mount of a directory in vmstate": mount("{nas}/vmstate/gen"),
    "a mount of a VM's directory": mount("{nas}/web"),
    "a mount of what is above": mount("{above}"),
}


@pytest.mark.parametrize("below", [False, True], ids=["outside", "below the mount point"])
@pytest.mark.parametrize("way", PLACES)
def test_a_place_that_is_another_is_refused_before_anything_is_moved(
    operator: Operator, bind: Bind, way: str, *, below: bool
) -> None:
    PLACES[way](operator, bind)
    place = operator.folder / "elsewhere"
    if below:
        (operator.nas / "attic").symlink_to(place)
        place = operator.nas / "attic"
    operator.configure(archive_directory=str(place))
    before, known = digests(operator.nas), records(operator)
    results = {command: operator.admin(*command) for command in COMMANDS}
    for command in (("archive", "web"), ("activate", "old")):
        assert results[command].exit_code in REFUSED, (command, results[command].output)
    assert results["init",].exit_code in {*REFUSED, ExitCode.LOCKED}
    if "VM" not in way:
        assert results["config", "validate"].exit_code == ExitCode.USAGE, results[
            "config", "validate"
        ].output
        assert results["init",].exit_code == ExitCode.USAGE
    assert digests(operator.nas) == before
    assert records(operator) == known
    assert not list(operator.nas.rglob(".vmbackup-place-test.*"))


def test_a_vm_whose_directory_is_the_archive_is_not_moved(operator: Operator) -> None:
    """What 027e4e6 did with `archive_directory = "attic"` and a VM of that name."""
    operator.configure(archive_directory="attic")
    operator.add_vms("attic")
    operator.set("attic", status=State.CLEAN, last_copy=copy(STAMP))
    put_copy(operator.nas / "attic", STAMP, b"attic")
    os.rename(operator.nas / "archive" / "old", operator.nas / "attic" / "old")
    before = digests(operator.nas)
    for command in (
        ("archive", "attic"),
        ("archive", "attic", "--dry-run"),
        ("archive", "web"),
        ("activate", "old"),
    ):
        result = operator.admin(*command)
        assert (result.exit_code, "nas.archive_directory" in result.stderr) == (
            ExitCode.USAGE,
            True,
        ), (command, result.output)
    assert digests(operator.nas) == before
    assert operator.record("attic").status == State.CLEAN


def line(operator: Operator) -> str:
    """What `doctor` says of the archive."""
    (found,) = [
        line for line in operator.admin("doctor").stdout.splitlines() if "  NAS: archive: " in line
    ]
    return found


def test_doctor_says_where_the_archive_is_and_what_is_wrong_with_it(
    operator: Operator, bind: Bind, tmp_path: Path
) -> None:
    assert line(operator) == f"ok    NAS: archive: {operator.nas}/archive, on the NAS"
    assert not list(operator.nas.rglob(".vmbackup-place-test.*"))
    operator.configure(archive_directory="web")
    assert "/web is the directory of a VM: it has copies in it" in line(operator)
    operator.set("old", status=State.CLEAN, directory="x")
    found = line(operator)
    assert (found[:4], "is the directory of a VM: it has copies in it" in found) == ("FAIL", True)
    operator.configure(archive_directory="x/y")
    (operator.nas / "x" / "y").mkdir(parents=True)
    assert (
        line(operator)
        == f"FAIL  NAS: archive: {operator.nas}/x/y is, holds, or is in the directory of old"
    )
    assert (
        f"is in, the directory of a VM, {operator.nas}/x: the database says so"
        in operator.admin("archive", "web").stderr
    )
    (tmp_path / "disk").mkdir()
    bind(tmp_path / "disk", operator.nas / "away")
    operator.configure(archive_directory="away")
    assert "has no .vmbackup-archive: it is not mounted, or another one" in line(operator)
    prepare_archive(NasFiles(), operator.configuration.nas, operator.database().version.repository)
    assert line(operator).startswith(f"ok    NAS: archive: {operator.nas}/away, on ")


def test_the_name_that_leads_to_the_archive_is_no_directory_for_a_vm_whatever_the_archive_is_called(
    operator: Operator, bind: Bind
) -> None:
    (operator.nas / "attic" / "old").mkdir(parents=True)
    bind(operator.nas / "attic", operator.folder / "elsewhere")
    (operator.folder / "link").symlink_to(operator.nas)
    for archive, reserved in (
        ("attic", {"attic"}),
        ("attic/old", {"attic"}),
        (str(operator.folder / "elsewhere"), {"attic"}),
        (str(operator.folder / "elsewhere" / "old"), {"attic"}),
        (str(operator.folder / "link" / "attic"), {"attic"}),
        (str(operator.folder / "disk"), set()),
    ):
        operator.configure(archive_directory=archive)
        site = operator.site()
        assert site.reserved_names() == reserved, archive
        assert not reserved or NewDirectories(site, operator.contents).choose(
            "Attic", uuid(9)
        ).startswith("Attic-"), archive


@pytest.fixture
def unseen(operator: Operator, bind: Bind, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """The NAS is the archive, by a second mount that no look tells from another place, and that has
    our marker.
    """
    prepare_archive(NasFiles(), operator.configuration.nas, operator.database().version.repository)
    (operator.nas / ARCHIVE_MARKER).write_bytes(
        (operator.nas / "archive" / ARCHIVE_MARKER).read_bytes()
    )
    bind(operator.nas, operator.folder / "elsewhere")
    operator.configure(archive_directory=str(operator.folder / "elsewhere"))
    monkeypatch.setattr(places, "relations", lambda *_: frozenset({Relation.APART}))
    os.rename(operator.nas / "archive" / "old", operator.nas / "old")
    return operator


def test_what_no_look_tells_the_experiment_does(unseen: Operator) -> None:
    before, known = digests(unseen.nas), records(unseen)
    for command in (("archive", "web"), ("activate", "old"), ("init",)):
        result = unseen.admin(*command)
        assert (result.exit_code, "nas.archive_directory" in result.stderr) == (
            ExitCode.USAGE,
            True,
        ), result.output
    assert digests(unseen.nas) == before
    assert records(unseen) == known
    assert not list(unseen.nas.rglob(".vmbackup-place-test.*"))


def test_without_the_experiment_that_would_fail(
    unseen: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The move itself still refuses to remove a file that is the one which stays, but by then the
    VM is ARCHIVED.
    """
    before, known = digests(unseen.nas), records(unseen)
    monkeypatch.setattr(places, "seen_in", lambda *_: None)
    unseen.admin("archive", "web")
    assert records(unseen) != known
    assert digests(unseen.nas) == before


def test_no_database_is_made_in_the_directory_of_a_vm(operator: Operator) -> None:
    inside = operator.nas / "web"
    operator.configure(mountpoint=str(inside))
    before = sorted(path.name for path in inside.iterdir())
    for options in (("--dry-run",), ()):
        result = operator.admin("init", *options)
        assert (result.exit_code, "is the directory of a VM" in result.stderr) == (
            ExitCode.USAGE,
            True,
        )
    assert sorted(path.name for path in inside.iterdir()) == before


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("archive", "is an archive of vmbackup"),
        ("archive/old", "is the directory of a VM"),
        ("archive/empty", "lies in {nas}/archive, which is an archive of vmbackup"),
        ("vmstate", "lies in {nas}, which is the NAS of another state database"),
        ("web/below", "lies in {nas}, which is the NAS of another state database"),
    ],
)
def test_what_another_repository_uses_is_no_nas_for_a_new_one(
    operator: Operator, place: str, why: str
) -> None:
    """By whatever name it is reached. One beside it is."""
    prepare_archive(
        NasFiles(), operator.configuration.nas, operator.site().database.version.repository
    )
    before = digests(operator.nas)
    (operator.nas / place).mkdir(exist_ok=True)
    link = operator.folder / "linked"
    link.symlink_to(operator.nas / place)
    second = Operator(operator.folder, "beta")
    for mountpoint in (operator.nas / place, link):
        second.configure(mountpoint=str(mountpoint))
        for command in (("init",), ("init", "--dry-run")):
            result = second.admin(*command)
            assert result.exit_code == ExitCode.USAGE, result.output
            assert why.format(nas=operator.nas) in result.stderr, result.output
            assert (
                "nothing was changed" in result.stderr or "holds the directories" in result.stderr
            )
    if place == "archive":
        rebuilt = second.admin("statedb", "rebuild", "--yes")
        assert rebuilt.exit_code == ExitCode.USAGE, rebuilt.output
    assert not (operator.nas / place / "vmstate").exists()
    assert digests(operator.nas) == before
    (operator.folder / "beside").mkdir()
    second.configure(mountpoint=str(operator.folder / "beside"))
    assert second.admin("init").exit_code == 0
