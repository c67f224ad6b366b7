"""`boot` refuses before it makes anything."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.booting import (
    boot_hold,
    isolation,
    locks,
    machine_making,
    machines,
    removing,
)
from coordinator.commands import boot_work
from coordinator.doctor import unfinished
from coordinator.lock import program as lock
from coordinator.restore import restoring
from shared.host.errors import CopyError, ExitCode, NasError
from shared.host.host_lock import host_lock
from shared.serving import places
from shared.site import Site
from shared.state.host_records import NodeRecord
from shared.state.records import Claim, Power, VmRecord
from shared.tasks import boot_mounts, boot_note
from shared.tasks.boot_note import BootDisk, BootNote, Phase
from shared.tasks.direct_plan import DirectPlan
from shared.virtualbox.importing import ImportPlan
from tests.support.copies import ova, put_copy
from tests.unit.coordinator.conftest import WHEN, Operator, uuid

STAMP = "20261122T203800Z-17"


@pytest.fixture
def operator(site_with_database: Operator, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """A VM with a copy; another one runs from a copy of it."""
    site_with_database.add_vms("web")
    put_copy(site_with_database.nas / "web", STAMP, ova())
    monkeypatch.setattr(places, "require_fuse", lambda: None)  # nothing is mounted by these tests
    return site_with_database


@pytest.fixture
def note(operator: Operator) -> BootNote:
    state = operator.configuration.host.state_directory
    state.mkdir(exist_ok=True)
    disk = BootDisk("a.vmdk", uuid(7), "trial-disk001.vdi")
    note = BootNote(
        boot_note.new_file(state),
        operator.folder / "vms" / "trial",
        *("trial", uuid(7), uuid(0), "web", STAMP, "digest"),
        (disk,),
        "2026-11-22T20:38:00Z",
        phase=Phase.RUNNING,
    )
    boot_note.write(note)
    return note


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), ExitCode.USAGE, "is needed"),
        (("web", "--finish", "web"), ExitCode.USAGE, "is needed"),
        (("--discard", "x", "--finish", "web"), ExitCode.USAGE, "exclude each other"),
        (("--finish", "trial", "--discard"), ExitCode.USAGE, "exclude each other"),
        (("--discard", "--finish", "trial"), ExitCode.USAGE, "exclude each other"),
        (("--discard", "--yes"), ExitCode.USAGE, "--discard needs the name of a VM"),
        (("trial", "--finish"), ExitCode.USAGE, "boot --finish NAME"),
        (("--finish", ""), ExitCode.USAGE, "--finish needs the name of a VM"),
        (("nobody",), ExitCode.USAGE, "nobody"),
        (("--finish", "web"), ExitCode.USAGE, "those that do: trial"),
        (("--discard", "web"), ExitCode.USAGE, "runs from a copy on this host"),
        (("web", "--as", "trial", "--copy", "previous"), ExitCode.USAGE, "runs from the copy"),
        (("web", "--copy", "20261122T203800Z-18"), ExitCode.USAGE, "has no copy"),
        (("web",), ExitCode.VBOXMANAGE, "VBoxManage"),
        (("--discard", "trial"), ExitCode.USAGE, "no terminal"),
        (("web", "--network", "--isolated"), ExitCode.USAGE, "exclude each other"),
        (("web", "--isolated", "--network", "--dry-run"), ExitCode.USAGE, "exclude each other"),
        (("--finish", "trial", "--copy", "previous"), ExitCode.USAGE, "make no VM"),
        (("--finish", "trial", "--isolated"), ExitCode.USAGE, "make no VM"),
        (("--discard", "trial", "--as", "web", "--yes"), ExitCode.USAGE, "make no VM"),
        (("--discard", "trial", "--to", "/tmp", "--yes"), ExitCode.USAGE, "make no VM"),
    ],
)
@pytest.mark.usefixtures("note")
def test_what_is_refused(
    operator: Operator, words: tuple[str, ...], code: ExitCode, said: str
) -> None:
    before = sorted(operator.folder.rglob("*"))
    result = operator.admin("boot", *words)
    assert (result.exit_code, said in result.stderr) == (code, True), result.output
    new = set(operator.folder.rglob("*")) - set(before)
    assert not [path for path in new if "vms" in path.parts or path.name.startswith("boot-")]


def test_it_is_shown_what_would_be_done(operator: Operator, note: BootNote) -> None:
    facts = operator.json("boot", "--finish", "trial", "--dry-run")
    assert (facts["dry_run"], facts["stamp"], facts["vm"]) == (True, STAMP, "web")
    assert operator.json("boot", "--discard", "trial", "--dry-run")["name"] == "trial"
    assert operator.json("boot", "web", "--as", "trial", "--dry-run")["uuid"] == note.uuid
    (shown,) = operator.json("status")["running_from_copies"]
    assert (shown["name"], shown["served"], shown["whole"]) == ("trial", False, False)
    assert f"trial runs from {STAMP} of web" in operator.admin("status").stdout


@pytest.mark.parametrize(
    ("info", "option", "told"),
    [
        (((1, 3), (2,), True), "--isolated", "modifyvm {} --cableconnected1 off --cableconnected3"),
        (((3,), (), False), "--isolated", "controlvm {} setlinkstate3 off"),
        (((), (1,), True), "--isolated", ""),
        (((), (1, 2), False), "--network", "controlvm {} setlinkstate1 on && VBoxManage controlvm"),
        (((), (1, 2), True), "--network", "modifyvm {} --cableconnected1 on --cableconnected2 on"),
        (((1,), (2,), True), "--network", ""),
        (((), (), True), "--network", ""),
    ],
)
def test_one_that_was_begun_goes_on_with_its_network_as_it_is_or_not_at_all(
    operator: Operator,
    note: BootNote,
    monkeypatch: pytest.MonkeyPatch,
    info: tuple[tuple[int, ...], tuple[int, ...], bool],
    option: str,
    told: str,
) -> None:
    found = SimpleNamespace(plugged=info[0], unplugged=info[1], stopped=info[2])
    monkeypatch.setattr(machines, "listed", lambda *_: None)
    monkeypatch.setattr(type(operator.site().vboxmanage), "info", lambda *_: found)
    done = operator.admin("boot", "web", "--as", "trial", option, "--dry-run")
    assert (done.exit_code, told.format(note.uuid) in done.stderr) == (2 * bool(told), True)
    assert ("was begun before" in done.stderr) == bool(told)


@pytest.mark.parametrize("option", ["--network", "--isolated"])
@pytest.mark.usefixtures("note")
def test_of_one_that_is_not_listed_no_cable_is_asked_for(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(Site, "inventory", lambda _: {})
    done = operator.admin("boot", "web", "--as", "trial", option, "--dry-run")
    assert (done.exit_code, "VirtualBox does not list 'trial'" in done.stderr) == (2, True)


def test_one_that_was_begun_goes_on_where_it_is(operator: Operator, note: BootNote) -> None:
    same = operator.admin("boot", "web", "--as", "trial", "--dry-run", "--to", f"{note.folder}/..")
    assert same.exit_code == ExitCode.DONE
    other = operator.admin("boot", "web", "--as", "trial", "--to", str(note.folder))
    assert (other.exit_code, f"begun before, in {note.folder}" in other.stderr) == (2, True)


def test_one_that_its_user_has_moved_goes_on_where_it_is_by_now(
    operator: Operator, note: BootNote, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = tmp_path / "there" / "trial"
    found = SimpleNamespace(settings_file=str(there / "trial.vbox"))
    monkeypatch.setattr(Site, "inventory", lambda _: {note.uuid: found})
    words = ("boot", "web", "--as", "trial", "--dry-run", "--to")
    assert operator.admin(*words, str(there.parent)).exit_code == ExitCode.DONE
    before = operator.admin(*words, str(note.folder.parent))
    assert (before.exit_code, f"and lies in {there} by now" in before.stderr) == (2, True)


def test_it_is_shown_among_the_locks_how_far_it_is(operator: Operator, note: BootNote) -> None:
    note.filling.mkdir(parents=True)
    note.progress.write({"filled": 1 << 30, "total": 5 << 30, "rate": 2 << 20, "short": 0})
    (shown,) = operator.json("list", program=lock)["running_from_copies"]
    assert (shown["uuid"], shown["filled"], shown["total"]) == (note.uuid, 1 << 30, 5 << 30)
    said = operator.lock("list").stdout
    assert f"trial runs from {STAMP} of web: 1.0 GiB of 5.0 GiB filled, and not served" in said
    assert "boot --finish trial" in next(unfinished.examine(operator.configuration)).hint


@pytest.mark.parametrize(
    ("said", "verdict", "hint"),
    [
        ({}, "ok", ""),
        ({"unread": "away"}, "warn", "vmbackup-admin boot web --as trial"),
        ({"short": 1 << 30}, "warn", "make room"),
    ],
)
def test_doctor_warns_of_one_that_does_not_get_on(
    operator: Operator,
    note: BootNote,
    monkeypatch: pytest.MonkeyPatch,
    said: dict[str, Any],
    verdict: str,
    hint: str,
) -> None:
    monkeypatch.setattr(boot_mounts, "is_mounted", lambda _: True)
    note.filling.mkdir(parents=True)
    note.progress.write({"filled": 1 << 30, "total": 5 << 30, **said})
    (check,) = unfinished.examine(operator.configuration)
    assert (check.verdict, hint in check.hint) == (verdict, True), check


def test_without_a_database_nothing_is_made(operator: Operator) -> None:
    operator.json("status")
    shutil.rmtree(operator.vmstate)
    refused = operator.admin("boot", "web")
    assert refused.exit_code in (ExitCode.NO_DATABASE, ExitCode.NAS), refused.output


def test_two_of_one_name_at_once_are_one(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look whether a name is free and the note of it nobody else begins."""
    state = operator.configuration.host.state_directory
    looked = list[str]()

    def begin(
        self: boot_work.BootCommand, record: VmRecord, *words: Any, noted: Any, **_: Any
    ) -> ExitCode:
        with host_lock(state, locks.BEGINNING) as mine:
            looked.append(f"free before it is noted: {mine}")
        noted()
        with host_lock(state, locks.BEGINNING) as mine:
            looked.append(f"free when it is noted: {mine}")
        looked.append(words[1])
        return ExitCode.DONE

    monkeypatch.setattr(boot_work.BootCommand, "begin", begin)
    assert operator.admin("boot", "web").exit_code == ExitCode.DONE
    assert looked == ["free before it is noted: False", "free when it is noted: True", "web"]


def test_another_user_than_that_of_the_vms_is_refused(operator: Operator, note: BootNote) -> None:
    site = operator.site()
    known = NodeRecord(site.node, "", "", user=str(os.geteuid() + 1))
    operator.commit(lambda contents: contents.with_node(known))
    for words in (("web",), ("--finish", "trial"), ("--discard", "trial", "--yes")):
        refused = operator.admin("boot", *words)
        assert "are those of another user" in refused.stderr, refused.output
        assert refused.exit_code
    assert note.file.exists()


class TestHold:
    """It ends wherever it stands, and no other one does."""

    def place(self, operator: Operator, note: BootNote) -> Site:
        site = operator.site()
        boot_hold.place(site, operator.record("web"), note)
        assert [hold.uuid for hold in operator.record("web").holds] == [note.uuid]
        return site

    def marks(self, operator: Operator) -> int:
        sidecar = json.loads((operator.nas / "web" / f"{STAMP}.json").read_text())
        return len(sidecar.get("holds", ()))

    def test_it_ends(self, operator: Operator, note: BootNote) -> None:
        site = self.place(operator, note)
        assert self.marks(operator) == 1
        boot_hold.end(site, note)
        boot_hold.end(site, note)
        assert (self.marks(operator), operator.record("web").holds) == (0, ())

    def test_with_what_is_discarded_its_own_record_goes(
        self, operator: Operator, note: BootNote
    ) -> None:
        site = self.place(operator, note)
        other = {"key": "trial", "uuid": note.uuid, "holds": (), "last_copy": None}
        own = replace(operator.record("web"), **other)
        operator.commit(lambda contents: contents.with_vm(own))
        boot_hold.discarded(site, note)
        boot_hold.discarded(site, note)
        assert (self.marks(operator), operator.record("web").holds) == (0, ())
        assert list(site.database.head().contents.vms) == ["web"]

    def test_one_of_which_the_sidecar_alone_tells_ends_too(
        self, operator: Operator, note: BootNote
    ) -> None:
        site = self.place(operator, note)
        operator.set("web", holds=())  # as when the database is put back
        boot_hold.end(site, note)
        assert (self.marks(operator), operator.record("web").holds) == (0, ())

    def test_one_of_a_vm_without_a_record_ends_too(
        self, operator: Operator, note: BootNote
    ) -> None:
        site = self.place(operator, note)
        operator.commit(
            lambda contents: replace(
                contents, vms={k: v for k, v in contents.vms.items() if k != "web"}
            )
        )
        boot_hold.end(site, note)
        assert self.marks(operator) == 0

    def test_that_of_another_vm_of_the_name_stays(self, operator: Operator, note: BootNote) -> None:
        site = self.place(operator, note)
        boot_hold.end(site, replace(note, uuid=uuid(8)))
        assert (self.marks(operator), len(operator.record("web").holds)) == (1, 1)

    def test_while_it_cannot_end_the_note_stays(
        self, operator: Operator, note: BootNote, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site = self.place(operator, note)
        monkeypatch.setattr(type(site), "inventory", lambda _: {})

        def away(*_: Any) -> None:
            raise NasError("away")

        monkeypatch.setattr(boot_hold.vm_copies, "in_all_places", away)
        with pytest.raises(NasError):
            removing.discard(site, note)
        assert note.file.exists()


class Machine:
    def __init__(self, *, running: bool) -> None:
        self.running = running


@pytest.mark.parametrize(
    ("running", "state", "values", "why"),
    [
        (True, "running", {}, "runs"),
        (False, "poweroff", {}, ""),
        (False, "aborted", {}, ""),
        (False, "saved", {}, "is saved"),
        (False, "starting", {}, "is starting"),
        (False, "poweroff", {"power": Power("shutdown", "running", 1)}, "starts it again"),
        (False, "poweroff", {"claim": Claim("s", 1, "backup", WHEN)}, "claimed for backup"),
        (False, "poweroff", {"node": "beta"}, "belongs to beta"),
    ],
)
def test_it_does_not_meet_its_original(
    operator: Operator,
    monkeypatch: pytest.MonkeyPatch,
    running: bool,
    state: str,
    values: dict[str, Any],
    why: str,
) -> None:
    site, before = operator.site(), operator.record("web")
    if values:
        operator.set("web", **values)
    found = {before.uuid: Machine(running=running)}
    monkeypatch.setattr(type(site), "inventory", lambda _: found)
    monkeypatch.setattr(type(site.vboxmanage), "info", lambda *_: SimpleNamespace(state=state))
    said = isolation.why_isolated(site, before)
    assert (why in said, bool(said)) == (True, bool(why))


def test_it_says_what_it_leaves_out(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = b"""<VirtualBox xmlns="http://www.virtualbox.org/"><Machine><MediaRegistry><DVDImages>
        <Image uuid="{d}" location="/isos/setup.iso"/></DVDImages></MediaRegistry><Hardware>
        <Network><Adapter slot="0" enabled="true"><NAT>
        <Forwarding name="ssh" hostport="2222"/></NAT></Adapter></Network>
        <SharedFolders><SharedFolder name="data" hostPath="/srv"/></SharedFolders>
        <StorageControllers><StorageController name="IDE" type="PIIX4">
        <AttachedDevice type="DVD" port="0" device="0"><Image uuid="{d}"/></AttachedDevice>
        </StorageController></StorageControllers></Hardware></Machine></VirtualBox>"""
    what = ImportPlan(Path("x.ova"), "web", operator.folder, left_out=("a disk of iSCSI",))
    monkeypatch.setattr(restoring, "plan", lambda *_, **__: what)
    monkeypatch.setattr(machine_making, "plan_directly", lambda *_: DirectPlan(kept, {}))
    monkeypatch.setattr(places, "require_fuse", lambda: None)
    facts = operator.json("boot", "web", "--network", "--dry-run")
    said = operator.admin("boot", "web", "--network", "--dry-run").stdout
    assert (facts["network"], "cut off" in said) == (True, False)
    cut = operator.admin("boot", "web", "--isolated", "--dry-run").stdout
    assert cut == f"{said}Its network would be cut off: --isolated was given.\n"
    for field, items in (
        ("host_access", ["shared folder 'data' (/srv)", "forwarded port 'ssh'"]),
        ("left_out", ["a disk of iSCSI"]),
        ("lost", ["the image in its CD drive (/isos/setup.iso)"]),
    ):
        told = "\n".join(facts[field])
        assert [item for item in items if item not in told or item not in said] == []


def test_it_says_what_its_server_doubts(
    operator: Operator, note: BootNote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That there is no room for all of it is known before the guest has filled the rest."""
    what = ImportPlan(Path("x.ova"), "web", operator.folder)
    monkeypatch.setattr(restoring, "plan", lambda *_, **__: what)
    kept = b'<VirtualBox xmlns="http://www.virtualbox.org/"><Machine/></VirtualBox>'
    monkeypatch.setattr(machine_making, "plan_directly", lambda *_: DirectPlan(kept, {}))
    doubt = "no room for 1.0 GiB of it"
    monkeypatch.setattr(machine_making, "begin", lambda *_, **__: (note, (doubt,)))
    ran = operator.admin("boot", "web", "--network", "--json")
    assert json.loads(ran.stdout)["warnings"] == [doubt]
    assert doubt in operator.admin("boot", "web", "--network").stderr
    ran = operator.admin("--config", str(operator.config), "boot", "web", "--network")
    for way in ("--finish", "--discard"):  # it can be pasted, as any command that is named
        ends = f"vmbackup-admin --config {operator.config} boot {way} trial"
        assert ends in ran.stdout, ran.output


@pytest.mark.parametrize("kind", ["Writethrough", "Immutable", "Shareable", "MultiAttach"])
def test_a_disk_that_no_snapshot_protects_is_refused(
    operator: Operator, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = f"""<VirtualBox xmlns="http://www.virtualbox.org/"><Machine><MediaRegistry><HardDisks>
        <HardDisk uuid="x" type="Normal"><HardDisk uuid="y" type="{kind}"/></HardDisk>
        </HardDisks></MediaRegistry></Machine></VirtualBox>""".encode()
    site = operator.site()
    what = ImportPlan(Path("x.ova"), "new", operator.folder)
    monkeypatch.setattr(restoring, "plan", lambda *_, **__: what)
    monkeypatch.setattr(machine_making, "plan_directly", lambda *_: DirectPlan(kept, {}))
    from shared.tasks import vm_copies

    record = site.database.head().contents.vms["web"]
    ((copy, _),) = vm_copies.copies(site, record)
    with pytest.raises(CopyError, match=kind):
        machine_making.plan(site, copy, name="new", folder=None, config=None, network=False)


@pytest.mark.parametrize(
    "words", [("web", "--as", "trial"), ("--finish", "trial"), ("--discard", "trial", "--yes")]
)
def test_what_runs_from_a_copy_in_another_repository_is_left_to_that(
    operator: Operator, note: BootNote, words: tuple[str, ...]
) -> None:
    """Its hold is there: ended with this database, that would stay for ever."""
    boot_note.write(replace(note, repository="f" * 32))
    done = operator.admin("boot", *words)
    assert done.exit_code == ExitCode.USAGE
    assert "--config FILE" in done.stderr
    assert ("--as NAME" in done.stderr) == (words[0] == "web")
    assert note.file.exists()


@pytest.mark.parametrize("told", ["record", "sidecar", "copy", "other copy"])
def test_with_a_database_that_was_made_anew_it_is_finished_all_the_same(
    operator: Operator, note: BootNote, told: str
) -> None:
    """What tells that it is the same NAS: its hold, or the copy itself."""
    copy = operator.nas / "web" / f"{STAMP}.ova"
    sha256 = json.loads(copy.with_suffix(".json").read_text())["sha256"]
    if told.endswith("copy"):
        index = f"sha256:{sha256 if told == 'copy' else '0' * 64}"
        boot_note.write(replace(note, repository="f" * 32, index=index))
    else:
        boot_hold.place(operator.site(), operator.record("web"), note)
        boot_note.write(replace(note, repository="f" * 32))
    if told == "record":
        sidecar = json.loads(copy.with_suffix(".json").read_text())
        copy.with_suffix(".json").write_text(json.dumps({**sidecar, "holds": []}))
    else:
        operator.commit(lambda contents: replace(contents, vms={}))
    done = operator.admin("boot", "--finish", "trial", "--dry-run")
    assert (done.exit_code == ExitCode.DONE) == (told != "other copy"), done.output
    ended = operator.admin("boot", "--discard", "trial")
    assert ("no terminal" in ended.stderr) == (told != "other copy"), ended.output


@pytest.mark.parametrize("place", ["vmstate", "web/new"])
def test_no_rehearsal_is_made_in_what_is_kept(operator: Operator, place: str) -> None:
    done = operator.admin("rehearse", "web", "--to", str(operator.nas / place))
    assert (done.exit_code, "nothing else belongs" in done.stderr) == (ExitCode.USAGE, True)
