"""doctor: what is wrong is found, and what to do about it is said."""

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from coordinator.doctor import archive, database, engines, host, nas, virtualbox
from coordinator.doctor.patience import BoundedRunner
from coordinator.doctor.result import Check, guarded
from shared.frozen.not_frozen import NotFrozenError
from shared.host.clock import SystemClock
from shared.host.configuration import Configuration, VirtualBox, load
from shared.host.errors import ExitCode, NasError
from shared.host.processes import Completed, SubprocessRunner
from shared.nas import mount
from shared.nas.mount import Mount, NasStatus
from shared.nas.spelling import TRIAL
from shared.ova.compression import zlib_codec
from shared.state.host_records import NodeRecord
from shared.state.rules import hosts, sightings
from shared.state.rules.sightings import Sighting
from shared.state.sessions.host_look import PREFIX, UNKNOWN_INTERVAL_SECONDS, WorkerEnd
from shared.state.sessions.host_look_writing import VmsSeen, write_look
from shared.virtualbox import scratch
from tests.support.simulated import SimulatedHost
from tests.unit.coordinator.conftest import WHEN, Operator, gone_process
from tests.unit.coordinator.test_reading import damage, tree


class FakeRunner:
    """Answers one command."""

    def __init__(self, stdout: str = "", status: int = 0) -> None:
        self.stdout, self.status = stdout, status

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        return Completed(tuple(arguments), self.status, self.stdout, "")


def by_name(checks: Iterator[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.fixture
def healthy(site_with_database: Operator, tmp_path: Path) -> Operator:
    """A host where everything is well; whether cron starts the workers depends on the machine."""
    virtualbox_host = SimulatedHost(tmp_path / "hosts", "alpha")
    virtualbox_host.make_vm("web")
    site_with_database.settings["virtualbox"] = {
        "vboxmanage": str(virtualbox_host.vboxmanage),
        "home": str(virtualbox_host.home),
    }
    site_with_database.configure()
    return site_with_database


class TestCommand:
    def test_a_healthy_host(self, healthy: Operator) -> None:
        healthy.add_vms("web")
        before = {path for path in tree(healthy.nas) if ".vmbackup-doctor" in path}
        result = healthy.admin("doctor")
        assert result.exit_code == ExitCode.DONE, result.output
        assert "0 failed" in result.stdout
        assert "1 VMs, 0 of them running" in result.stdout
        assert {path for path in tree(healthy.nas) if ".vmbackup-doctor" in path} == before == set()

    def test_as_json(self, healthy: Operator) -> None:
        document = healthy.json("doctor")
        assert document["failed"] == 0
        assert {"name", "verdict", "seen", "hint"} == document["checks"][0].keys()

    def test_a_wrong_configuration_is_a_failed_check(self, operator: Operator) -> None:
        operator.config.write_text("[nas]\nnonsense = 1\n", encoding="utf-8")
        result = operator.admin("doctor")
        assert result.exit_code == ExitCode.FAILURE
        assert "FAIL  configuration" in result.stdout
        assert "nas.nonsense" in result.stdout

    def test_before_init_the_nas_is_tried_out_and_the_next_step_is_said(
        self, operator: Operator
    ) -> None:
        result = operator.admin("doctor")
        assert result.exit_code == ExitCode.FAILURE
        assert "ok    NAS: publishing: by link" in result.stdout
        assert "vmbackup-admin init" in result.stdout
        assert list(operator.nas.iterdir()) == []

    def test_nothing_is_written_to_an_unmounted_or_foreign_nas(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        operator.configure(require_mount=True)
        assert "nothing is mounted" in operator.admin("doctor").stdout
        operator.configure()
        operator.admin("status")
        os.rename(operator.vmstate, operator.folder / "away")
        result = operator.admin("doctor")
        assert "holds no state database" in result.stdout
        assert list(operator.nas.iterdir()) == [operator.nas / "archive"]

    def test_a_host_without_virtualbox(self, site_with_database: Operator) -> None:
        result = site_with_database.admin("doctor")
        assert result.exit_code == ExitCode.FAILURE
        assert "FAIL  VirtualBox: cannot start" in result.stdout
        assert "VMBACKUP_VBOXMANAGE" in result.stdout


@pytest.mark.parametrize(
    ("filesystem", "options", "expected"),
    [
        ("nfs4", "rw,vers=4.2,hard,acregmax=60", []),
        ("nfs4", "rw,soft", ["soft"]),
        ("nfs", "rw,softerr", ["soft"]),
        ("nfs4", "rw,nocto,actimeo=600", ["nocto", "actimeo=600"]),
        ("cifs", "rw,vers=3.1.1,soft,cache=strict,actimeo=1", []),
        ("cifs", "rw,vers=1.0,cache=loose", ["cache=loose", "SMB version 1.0"]),
        ("fuse.sshfs", "rw", ["fuse.sshfs"]),
        ("ext4", "rw,relatime", []),
        ("nfs4", "ro,hard", ["read-only"]),
    ],
)
def test_mount_options_that_hurt(filesystem: str, options: str, expected: list[str]) -> None:
    found = [
        check
        for check in nas.examine_options(
            Mount("/nas", filesystem, "server:/x", tuple(options.split(",")))
        )
        if check.verdict != "ok"
    ]
    assert len(found) == len(expected)
    for check, part in zip(found, expected, strict=True):
        assert part in check.seen
        assert check.hint


class TestNas:
    def test_room(self, operator: Operator) -> None:
        operator.configure(reserve="10 GiB")
        status = NasStatus(operator.nas, 5 * 2**30, 100 * 2**30, None)
        checks = by_name(nas.examine_mount(status, operator.configuration.nas))
        assert checks["NAS: room"].verdict == "fail"

    def test_a_database_that_needs_links_on_a_mount_without(
        self, operator: Operator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nas, "probe_primitive", lambda _root: "directory")
        checks = by_name(nas.examine_use(operator.configuration.nas, SystemClock(), "link"))
        assert checks["NAS: publishing"].verdict == "fail"

    def test_a_file_system_that_replaces_what_it_must_not(
        self, operator: Operator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def replacing(path: Path, data: bytes) -> None:
            path.write_bytes(data)

        monkeypatch.setattr(nas, "write_new_file", replacing)
        checks = by_name(nas.examine_use(operator.configuration.nas, SystemClock(), None))
        assert checks["NAS: exclusive creation"].verdict == "fail"

    @pytest.mark.parametrize(
        ("seconds", "verdict", "seen"),
        [(3600, "warn", "behind"), (-3600, "warn", "ahead of"), (0.5, "ok", "agrees")],
    )
    def test_a_clock_that_differs(
        self, operator: Operator, seconds: float, verdict: str, seen: str
    ) -> None:
        class ClockAhead(SystemClock):
            def now(self) -> datetime:
                return super().now() + timedelta(seconds=seconds)

        checks = by_name(nas.examine_use(operator.configuration.nas, ClockAhead(), None))
        check = checks["NAS: clock"]
        assert (check.verdict, seen in check.seen) == (verdict, True)

    def test_what_an_interrupted_examination_left_is_removed_but_no_link_is_followed(
        self, operator: Operator
    ) -> None:
        old = operator.nas / f"{TRIAL}old"
        old.mkdir()
        (old / "file").write_bytes(b"")
        os.utime(old, (0, 0))
        precious = operator.folder / "precious"
        precious.mkdir()
        (operator.nas / f"{TRIAL}link").symlink_to(precious)
        list(nas.examine_use(operator.configuration.nas, SystemClock(), None))
        assert not old.exists()
        assert precious.exists()

    def test_an_error_of_the_nas_is_a_failed_check(self) -> None:
        def failing() -> Iterator[Check]:
            yield Check("first", "ok", "")
            raise NasError("gone", hint="look")

        def refused() -> Iterator[Check]:
            raise PermissionError(13, "Permission denied", "/nas")
            yield

        assert [(check.name, check.verdict) for check in guarded("use", failing)] == [
            ("first", "ok"),
            ("use", "fail"),
        ]
        assert "/nas" in next(guarded("use", refused)).seen

    @pytest.mark.parametrize(
        ("number", "said"),
        [(errno.ENOSPC, "the NAS is full"), (errno.EDQUOT, "quota"), (errno.EACCES, "rights")],
    )
    def test_what_helps_is_said_of_a_full_nas_too(self, number: int, said: str) -> None:
        def full() -> Iterator[Check]:
            raise OSError(number, os.strerror(number))
            yield

        assert said in next(guarded("NAS: use", full)).hint


class TestDatabase:
    def examine(self, operator: Operator) -> dict[str, Check]:
        return by_name(
            database.examine(operator.configuration, operator.database().identity, SystemClock())
        )

    def test_damage(self, site_with_database: Operator) -> None:
        site_with_database.add_vms("web")
        damage(site_with_database)
        checks = self.examine(site_with_database)
        assert checks["database: content"].verdict == "fail"
        assert "--set-aside" in checks["database: content"].hint

    def test_an_edit_by_hand_is_a_warning(self, site_with_database: Operator) -> None:
        (site_with_database.vmstate / "vmtool-statedb").write_text("web:NEW\n")
        assert self.examine(site_with_database)["database: content"].verdict == "warn"

    def test_another_machine_of_this_name(self, site_with_database: Operator) -> None:
        site_with_database.commit(
            lambda contents: sightings.sight(contents, "alpha", [Sighting("u", "x", "x")], WHEN),
            machine="f" * 32,
        )
        check = self.examine(site_with_database)["database: this host"]
        assert (check.verdict, "--replaced" in check.hint) == ("fail", True)

    def test_another_user_of_this_machine(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web")
        operator.commit(lambda contents: hosts.set_user(contents, "alpha", "12345"))
        check = self.examine(operator)["database: this host"]
        assert (check.verdict, "host.node" in check.hint) == ("fail", True)

    def test_two_names_of_one_machine(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web")
        machine = operator.database().identity.machine
        operator.commit(lambda contents: contents.with_node(NodeRecord("beta", machine)))
        assert "alpha, beta" in self.examine(operator)["database: hosts"].seen

    def test_a_vm_on_two_hosts(self, site_with_database: Operator) -> None:
        site_with_database.add_vms("web")
        site_with_database.set("web", also_on="beta")
        assert (
            "web is on alpha and on beta" in self.examine(site_with_database)["database: VMs"].seen
        )

    def test_a_dead_session_and_a_dead_lease(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web")
        session = operator.dead_session()
        operator.claim(session, "web")
        assert session.id in self.examine(operator)["database: locks"].seen
        marker = f"filelock/2\npid={gone_process().pid}\nhost={os.uname().nodename}\ntoken=x\n"
        (operator.vmstate / "vmtool-dblock").write_text(marker)
        assert "vmbackup-lock break database" in self.examine(operator)["database: locks"].hint

    def test_rights(self, site_with_database: Operator) -> None:
        root = site_with_database.vmstate
        assert [check.verdict for check in database.examine_rights(root)] == ["ok"]
        os.chmod(root / "gen", 0o777)
        found = [check for check in database.examine_rights(root) if check.verdict == "warn"]
        assert "everybody may write" in found[0].seen
        os.chmod(root / "gen", 0o770)
        os.rename(root / "tmp", root / "elsewhere")
        (root / "tmp").symlink_to(root / "elsewhere")
        assert "is no directory" in next(database.examine_rights(root)).seen

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_a_directory_of_another_user(self, site_with_database: Operator) -> None:
        root = site_with_database.vmstate
        os.chown(root / "node", 12345, 12345)
        os.chmod(root / "node", stat.S_IRWXU)
        assert "belongs to another user (12345)" in next(database.examine_rights(root)).seen


class TestVirtualBox:
    @pytest.fixture
    def box(self, tmp_path: Path) -> SimulatedHost:
        return SimulatedHost(tmp_path / "hosts", "alpha")

    def examine(self, box: SimulatedHost, program: Path | None = None) -> list[Check]:
        from shared.host.processes import SubprocessRunner

        configured = VirtualBox(vboxmanage=str(program or box.vboxmanage), home=box.home)
        state = box.vms / "no-state"
        return list(
            virtualbox.examine(configured, state, SubprocessRunner(), SystemClock(), os.environ)
        )

    @pytest.mark.broad
    def test_no_vms_at_all_are_usually_the_wrong_user(self, box: SimulatedHost) -> None:
        check = by_name(iter(self.examine(box)))["VirtualBox: VMs"]
        assert (check.verdict, "VBOX_USER_HOME" in check.hint) == ("warn", True)

    @pytest.mark.broad
    def test_a_vm_that_cannot_be_used(self, box: SimulatedHost) -> None:
        vm = box.make_vm("broken")
        next(box.vms.rglob("broken.vbox")).write_text("torn")
        assert any(
            check.verdict == "warn" and (vm.name in check.seen or vm.uuid in check.seen)
            for check in self.examine(box)
        )

    @pytest.mark.broad
    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_another_users_virtualbox_is_refused(self, box: SimulatedHost) -> None:
        box.make_vm("web")
        os.chown(box.home, 12345, 12345)
        check = by_name(iter(self.examine(box)))["VirtualBox: user"]
        assert (check.verdict, "uid 12345" in check.hint) == ("fail", True)

    @pytest.mark.broad
    @pytest.mark.parametrize(
        ("version", "verdict"), [("6.1.50r161033", "warn"), ("7.2.22r175245", "ok")]
    )
    def test_a_version_that_was_not_tried(
        self, box: SimulatedHost, tmp_path: Path, version: str, verdict: str
    ) -> None:
        program = tmp_path / "VBoxManage"
        program.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && exec echo {version}\nexec {box.vboxmanage} "$@"\n'
        )
        program.chmod(0o755)
        check = by_name(iter(self.examine(box, program)))["VirtualBox"]
        assert (check.verdict, check.seen) == (verdict, f"{program}, version {version}")


class TestEngines:
    def examine(
        self, box: SimulatedHost, engine: str, changed: str = "off", **policies: str
    ) -> list[Check]:
        from shared.host.processes import SubprocessRunner

        sections = {
            "nas": {"mountpoint": box.folder},
            "host": {},
            "virtualbox": {"vboxmanage": str(box.vboxmanage), "home": box.home},
            "backup": {"engine": engine, "changed": changed},
            "policy": {name: {"engine": engine} for name, engine in policies.items()},
        }
        return list(
            engines.examine(
                Configuration.model_validate(sections),
                SubprocessRunner(),
                SystemClock(),
                os.environ,
            )
        )

    @pytest.mark.broad
    def test_each_vm_gets_one_and_the_reason_is_said(self, tmp_path: Path) -> None:
        box = SimulatedHost(tmp_path / "hosts", "alpha")
        for name in ("db", "legacy", "web"):
            box.make_vm(name)
        box.make_vm("wrong").disk.write_bytes(b"?" * 1000)
        checks = self.examine(box, "auto", legacy="vboxmanage")
        assert [check.verdict for check in checks if "compresses" not in check.seen] == ["ok"] * 3
        seen = [check.seen for check in checks]
        assert seen[0] == 'VBoxManage exports legacy: engine = "vboxmanage"'
        assert seen[1].startswith("VBoxManage exports wrong, because the parallel engine cannot:")
        assert "this is no VDI file" in seen[1]
        assert seen[2].endswith("exports db, web")
        failed = next(check for check in self.examine(box, "parallel") if check.verdict == "fail")
        assert "wrong is not exported" in failed.seen

    @pytest.mark.broad
    def test_a_users_vm_with_a_name_like_ours_is_shown_and_what_bears_our_mark_is_not(
        self, tmp_path: Path
    ) -> None:
        box = SimulatedHost(tmp_path / "hosts", "alpha")
        box.make_vm("vmbackup-1")
        ours, uuid = box.vms / f"vmbackup-{'0' * 32}", "11111111-2222-4333-8444-555555555555"
        scratch.make(ours, scratch.Mark(ours.name, uuid))
        box.run(
            "createvm",
            f"--name={ours.name}",
            f"--uuid={uuid}",
            f"--basefolder={ours}",
            "--register",
        )
        seen = [check.seen for check in self.examine(box, "auto") if "exports" in check.seen]
        assert [text.partition("exports ")[2] for text in seen] == ["vmbackup-1"]

    @pytest.mark.broad
    def test_one_that_runs_from_a_copy_is_left_out_and_its_disks_are_not_looked_at(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They come from a server that may hang."""
        box = SimulatedHost(tmp_path / "hosts", "alpha")
        box.make_vm("web")
        booted = box.make_vm("trial")
        looked = list[str | None]()
        check = engines.check_eligibility
        monkeypatch.setattr(
            engines,
            "check_eligibility",
            lambda vm, clock: looked.append(vm.name) or check(vm, clock),
        )
        monkeypatch.setattr(engines.boot_note, "unfinished", lambda *_: frozenset({booted.uuid}))
        seen = [each.seen for each in self.examine(box, "auto")]
        assert "trial is left out of backups: runs from a copy until" in seen[0]
        assert looked == ["web"]

    @pytest.mark.broad
    @pytest.mark.parametrize("refused", [True, False])
    def test_where_nothing_can_be_cloned_it_is_said_that_all_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
    ) -> None:
        def require(disk: Path, folder: Path) -> None:
            assert (disk.suffix, folder.is_dir()) == (".vdi", True)
            if refused:
                raise NotFrozenError("the file system makes no reflink clones")

        monkeypatch.setattr(engines, "require_reflinks", require)
        box = SimulatedHost(tmp_path / "hosts", "alpha")
        for name in ("db", "web"):
            box.make_vm(name)
        found = [each for each in self.examine(box, "auto", "auto") if "changed" in each.name]
        if not refused:
            assert found == []
            return
        (check,) = found
        assert check.verdict == "ok"
        assert check.seen.startswith("makes no clones for db, web, of which each backup reads all")
        assert check.seen.endswith("makes no reflink clones (XFS with reflinks and btrfs do)")
        assert not [each for each in self.examine(box, "auto") if "changed" in each.name]

    @pytest.mark.broad
    def test_without_isal_the_cure_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engines, "best_codec", lambda: zlib_codec(1))
        box = SimulatedHost(tmp_path / "hosts", "alpha")
        box.make_vm("web")
        check = next(check for check in self.examine(box, "auto") if check.verdict == "warn")
        assert "isal" in check.hint


def test_a_state_directory_that_cannot_be_made(operator: Operator) -> None:
    (operator.folder / "file").write_text("")
    operator.settings["host"] = {
        "node": "alpha",
        "state_directory": str(operator.folder / "file" / "below"),
    }
    operator.configure()
    assert "FAIL  state directory" in operator.admin("doctor").stdout


def test_a_state_directory_that_is_full_is_a_failure(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right to write there is not enough."""
    state, write = operator.configuration.host.state_directory, Path.write_bytes

    def full(file: Path, data: bytes) -> int:
        if file.parent == state:
            file.touch()
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    check = by_name(host.examine(load(str(operator.config), {}), None))["state directory"]
    assert (check.verdict, "make room" in check.hint) == ("fail", True)
    assert "No space left on device" in check.seen
    assert list(state.iterdir()) == []


def test_a_state_directory_that_other_hosts_may_have_is_warned_of(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its locks would keep the workers of the other hosts from running."""
    operator.nas.mkdir(exist_ok=True)
    for place, said in ((operator.nas / "state", "on the NAS"), (operator.folder / "s", "on nfs4")):
        mounted = Mount(str(operator.folder), "nfs4", "nas:/home", ())
        monkeypatch.setattr(host, "mount_table", lambda mounted=mounted: [mounted])
        operator.settings["host"] = {"node": "alpha", "state_directory": str(place)}
        operator.configure()
        check = by_name(host.examine(load(str(operator.config), {}), None))["state directory"]
        assert (check.verdict, check.seen) == ("warn", f"{place} is {said}")


def test_a_nas_that_is_mounted_read_only_is_one_finding_and_not_one_of_rights(
    site_with_database: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mount.check_nas
    monkeypatch.setattr(
        "shared.nas.mount.check_nas",
        lambda *arguments, **options: replace(real(*arguments, **options), read_only=True),
    )
    monkeypatch.setattr(
        "os.access", lambda path, _mode, **_: not str(path).startswith(str(site_with_database.nas))
    )
    lines = site_with_database.admin("doctor").stdout.splitlines()
    wrong = [
        line
        for line in lines
        if line.startswith(("FAIL", "WARN")) and ("NAS" in line or "database" in line)
    ]
    assert wrong == ["FAIL  NAS: mount options: mounted read-only"]


def wrong_lines(operator: Operator) -> list[str]:
    """What doctor has to say of the NAS and the database that is not well."""
    return [
        line
        for line in operator.admin("doctor").stdout.splitlines()
        if line.startswith(("FAIL", "WARN"))
        and ("NAS" in line or "database" in line)
        and "last runs" not in line
    ]


def test_a_server_that_exports_read_only_is_one_finding_though_the_mount_does_not_say_so(
    site_with_database: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(site_with_database.nas))

    monkeypatch.setattr(nas, "trial_directory", refuse)
    monkeypatch.setattr(archive, "examine", refuse)
    monkeypatch.setattr(
        "os.access", lambda path, _mode, **_: not str(path).startswith(str(site_with_database.nas))
    )
    (told,) = wrong_lines(site_with_database)
    assert told.startswith("FAIL  NAS: use: Read-only file system")


def test_rights_that_are_wrong_everywhere_are_one_finding(operator: Operator) -> None:
    operator.create()
    for path in (operator.vmstate, operator.vmstate / "gen", operator.vmstate / "node"):
        path.chmod(0o777)
    (told,) = wrong_lines(operator)
    gen = operator.vmstate / "gen"
    assert told.startswith(
        f"WARN  database: rights: everybody may write to {operator.vmstate} {gen}"
    )


class TestVirtualBoxThatHangs:
    def test_it_is_said_within_a_minute_and_once_and_the_rest_is_examined(
        self, site_with_database: Operator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The time that passes is what the programs were allowed to take."""
        passed = []

        class Hanging(SubprocessRunner):
            def run(
                self,
                arguments: Sequence[str],
                *,
                timeout_seconds: float,
                environment: Mapping[str, str] | None = None,
            ) -> Completed:
                if "no-VBoxManage" not in arguments[0]:
                    return FakeRunner(status=1).run(arguments, timeout_seconds=timeout_seconds)
                passed.append(timeout_seconds)
                return Completed(tuple(arguments), -9, "", "", timed_out=True)

        monkeypatch.setattr("shared.host.processes.SubprocessRunner", Hanging)
        monkeypatch.setattr(SystemClock, "monotonic", lambda _self: sum(passed))
        site_with_database.settings["virtualbox"] = {
            "vboxmanage": "no-VBoxManage",
            "timeout_seconds": 600,
        }
        site_with_database.configure()
        output = site_with_database.admin("doctor").stdout
        assert sum(passed) <= 40
        assert output.count("did not answer within") == 1
        assert "NAS: rights" in output

    def test_what_is_known_is_printed_before_it(
        self, site_with_database: Operator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines: list[str] = []
        before: list[list[str]] = []

        def hang(*_: object, **__: object) -> object:
            before.append(list(lines))
            raise NasError("it hangs")

        monkeypatch.setattr("coordinator.commands.doctor.say", lines.append)
        monkeypatch.setattr(virtualbox, "examine", hang)
        site_with_database.admin("doctor")
        assert any("state directory" in line for line in before[0])

    def test_commands_have_so_long_together(self) -> None:
        class Slow(FakeRunner):
            def run(
                self,
                arguments: Sequence[str],
                *,
                timeout_seconds: float,
                environment: Mapping[str, str] | None = None,
            ) -> Completed:
                taken.append(timeout_seconds)
                return super().run(arguments, timeout_seconds=timeout_seconds)

        class Clock(SystemClock):
            def monotonic(self) -> float:
                return sum(taken)

        taken: list[float] = []
        runner = BoundedRunner(Slow(), Clock(), 35)
        ended = [runner.run(["x"], timeout_seconds=20).timed_out for _ in range(4)]
        assert (taken, ended) == ([20, 15], [False, False, True, True])


class Earlier(SystemClock):
    """The wall clock so long ago that a host which looked then is silent now."""

    def now(self) -> datetime:
        """See `Clock.now`."""
        return super().now() - timedelta(seconds=4 * UNKNOWN_INTERVAL_SECONDS)


class TestLastRuns:
    def test_workers_that_have_stopped_are_seen_in_the_hosts_own_look(
        self, operator: Operator
    ) -> None:
        operator.create()
        operator.add_vms("web")
        database = operator.database()
        directory, identity = operator.vmstate / "node", database.identity
        write_look(directory, identity, SystemClock(), VmsSeen((), (), ()), {})
        assert "ok    schedule: last runs: its workers run" in operator.admin("doctor").stdout
        (file := directory / f"{PREFIX}{identity.node}").unlink()
        clock = Earlier()
        write_look(directory, identity, clock, VmsSeen((), (), ()), {})
        os.utime(file, (clock.now().timestamp(), clock.now().timestamp()))
        told = operator.admin("doctor").stdout
        assert "WARN  schedule: last runs: its workers have stopped, or it is off (4 h)" in told

    def test_a_worker_that_fails_is_seen_though_the_schedule_starts_it(
        self, operator: Operator
    ) -> None:
        operator.create()
        directory, identity = operator.vmstate / "node", operator.database().identity
        ends = {"backup": WorkerEnd(14, "2026-11-29T12:00:00Z")}
        write_look(directory, identity, SystemClock(), VmsSeen((), (), ()), ends)
        told = operator.admin("doctor").stdout
        assert "WARN  schedule: last runs: backup ended with exit code 14" in told

    def test_a_host_whose_workers_never_looked(self, operator: Operator) -> None:
        operator.create()
        assert "WARN  schedule: last runs: none of its workers" in operator.admin("doctor").stdout
