"""init, config and statedb: making, checking, repairing, correcting what the system stands on."""

import os
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from shared.host.errors import ExitCode
from shared.state.states import State
from shared.state.store import protocol
from shared.state.store.layout import generation_name
from shared.state.store.version import DEFAULT_LEASE_SECONDS
from tests.unit.coordinator.conftest import Operator, copy
from tests.unit.coordinator.test_locks import plant
from tests.unit.coordinator.test_reading import damage, tree


def findings(operator: Operator, *arguments: str) -> tuple[int, str]:
    result = operator.admin("statedb", "check", *arguments)
    return result.exit_code, result.output


class TestInit:
    def test_it_makes_a_database_and_the_archive(self, operator: Operator) -> None:
        result = operator.admin("init", "--lease-seconds", "60")
        assert result.exit_code == ExitCode.DONE
        assert operator.database().version.lease_seconds == 60
        assert (operator.nas / "archive").is_dir()
        assert operator.admin("status").exit_code == ExitCode.DONE

    @pytest.mark.parametrize("node", ["alpha", "beta"])
    def test_a_second_time_it_is_refused_as_locked(self, operator: Operator, node: str) -> None:
        operator.admin("init")
        repository = operator.database().version.repository
        again = Operator(operator.folder, node)
        again.configure()
        for arguments in (("init",), ("init", "--dry-run")):
            result = again.admin(*arguments)
            assert result.exit_code == ExitCode.LOCKED
            assert "there already is a state database" in result.stderr
        assert operator.database().version.repository == repository

    def test_its_code_where_there_is_a_database_is_the_one_that_its_help_explains(
        self, operator: Operator
    ) -> None:
        assert operator.admin("init").exit_code == ExitCode.DONE
        assert operator.admin("init").exit_code == ExitCode.LOCKED
        explained = operator.admin("init", "--help").stdout
        assert "init: there is a database" in " ".join(explained.split())

    def test_one_that_was_killed_before_it_made_the_archive_is_finished(
        self, operator: Operator
    ) -> None:
        operator.admin("init")
        shutil.rmtree(operator.nas / "archive")
        assert operator.admin("init", "--dry-run").exit_code == ExitCode.LOCKED
        assert not (operator.nas / "archive").exists()
        assert operator.admin("init").exit_code == ExitCode.LOCKED
        assert (operator.nas / "archive").is_dir()

    def test_a_dry_run_makes_nothing(self, operator: Operator) -> None:
        assert operator.admin("init", "--dry-run").exit_code == ExitCode.DONE
        assert list(operator.nas.iterdir()) == []

    def test_not_into_an_unmounted_mount_point(self, operator: Operator) -> None:
        operator.configure(require_mount=True)
        assert operator.admin("init").exit_code == ExitCode.NAS
        assert list(operator.nas.iterdir()) == []

    def test_not_where_this_host_knows_another_database(self, operator: Operator) -> None:
        """An NAS that is away and has left an empty directory is not initialised anew."""
        operator.admin("init")
        os.rename(operator.vmstate, operator.folder / "away")
        assert operator.admin("init").exit_code == ExitCode.NAS
        assert not operator.vmstate.exists()

    def test_an_archive_elsewhere_gets_its_marker(self, operator: Operator, tmp_path: Path) -> None:
        (tmp_path / "other-disk").mkdir()
        operator.configure(archive_directory=str(tmp_path / "other-disk"))
        assert operator.admin("init").exit_code == ExitCode.DONE
        assert (
            operator.database().version.repository
            in (tmp_path / "other-disk" / ".vmbackup-archive").read_text()
        )


class TestConfig:
    def test_what_it_generates_is_right(self, operator: Operator) -> None:
        target = operator.folder / "generated.toml"
        assert (
            operator.admin("config", "generate", "--output", str(target)).exit_code == ExitCode.DONE
        )
        assert target.read_text() == operator.admin("config", "generate").stdout
        assert "mountpoint" in tomllib.loads(target.read_text())["nas"]

    def test_it_overwrites_nothing(self, operator: Operator) -> None:
        before = operator.config.read_text()
        assert (
            operator.admin("config", "generate", "--output", str(operator.config)).exit_code
            == ExitCode.USAGE
        )
        assert operator.config.read_text() == before
        assert (
            operator.admin("config", "generate", "--output", "/nowhere/at/all").exit_code
            == ExitCode.USAGE
        )

    def test_validate(self, operator: Operator) -> None:
        operator.settings["virtualbox"] = {"vboxmanage": sys.executable}
        operator.configure()
        assert operator.json("config", "validate") == {
            "schema": 1,
            "valid": True,
            "file": str(operator.config),
            "warnings": [],
        }
        assert "is right" in operator.admin("config", "validate").stdout
        named = operator.admin("config", "validate", "my file.toml")
        assert named.exit_code == ExitCode.USAGE
        assert "vmbackup-admin --config 'my file.toml' config validate" in named.stderr
        operator.settings["virtualbox"] = {"home": "/nowhere/at/all", "vboxmanage": "/no/program"}
        operator.configure()
        assert operator.json("config", "validate")["warnings"] == [
            "virtualbox.home: there is no directory /nowhere/at/all",
            "virtualbox.vboxmanage: there is no program /no/program",
        ]
        operator.settings = {
            "metrics": {"file": "/no/where/vmbackup.prom"},
            "virtualbox": {"vboxmanage": sys.executable},
            "page": {"file": "/not/there/page.html"},
            "backup": {"before": ["/no/hook --all"], "after": [sys.executable]},
            'policy."web*"': {"failed": ["no-such-program", "x"]},
            "host": {"state_directory": str(operator.config)},
        }
        operator.configure(mountpoint="/no/nas")
        assert operator.json("config", "validate")["warnings"][:6] == [
            "nas.mountpoint: there is no directory /no/nas",
            f"host.state_directory: {operator.config} is no directory",
            "page.file: there is no directory /not/there",
            "metrics.file: there is no directory /no/where",
            "backup.before: there is no program /no/hook --all; arguments are texts of their own",
            'policy."web*".failed: there is no program no-such-program',
        ]
        for wrong in (operator.config, operator.config / "below"):
            operator.configure(mountpoint=str(wrong))
            refused = operator.admin("config", "validate")
            assert refused.exit_code == ExitCode.USAGE
            assert f"nas.mountpoint: {wrong} is no directory" in refused.stderr
        operator.config.write_text("[nas]\n", encoding="utf-8")
        result = operator.admin("config", "validate")
        assert result.exit_code == ExitCode.USAGE
        assert "nas.mountpoint" in result.stderr
        operator.config.unlink()
        missing = operator.admin("config", "validate")
        assert missing.exit_code == ExitCode.USAGE
        assert f"config generate --output {operator.config}" in missing.stderr

    def test_validate_says_where_nobody_would_read_what_copies_take_over(
        self, operator: Operator
    ) -> None:
        operator.settings["virtualbox"] = {"vboxmanage": sys.executable}
        operator.settings["backup"] = {"changed": "auto"}
        operator.settings['policy."a*"'] = {"verify_days": 0}
        operator.settings['policy."b*"'] = {"verify_days": 0, "changed": "off"}
        operator.configure()
        (warning,) = operator.json("config", "validate")["warnings"]
        assert warning.startswith('[policy."a*"] has changed = "auto" and verify_days = 0')
        assert "every copy is whole" in operator.admin("config", "validate").stderr

    def test_validate_says_whose_exports_no_limit_bounds(self, operator: Operator) -> None:
        operator.settings["virtualbox"] = {"vboxmanage": sys.executable}
        operator.settings["backup"] = {"bytes_per_second": "20 MB"}
        operator.settings['policy."a*"'] = {"engine": "vboxmanage"}
        operator.settings['policy."b*"'] = {"engine": "parallel"}
        operator.configure()
        (warning,) = operator.json("config", "validate")["warnings"]
        assert warning.startswith('[policy."a*"] has engine = "vboxmanage": ')
        assert "backup.bytes_per_second does not bound" in warning
        del operator.settings["backup"]
        operator.configure()
        assert operator.json("config", "validate")["warnings"] == []

    def test_show_is_a_configuration_again(self, operator: Operator) -> None:
        operator.settings['policy."we*b"'] = {"keep_last": 5}
        operator.configure()
        text = operator.admin("config", "show").stdout
        shown = tomllib.loads(text)
        operator.config.write_text(text, encoding="utf-8")
        assert operator.admin("config", "validate").exit_code == ExitCode.DONE
        assert shown["nas"]["mountpoint"] == str(operator.nas)
        assert shown["policy"]["we*b"]["keep_last"] == 5
        assert operator.json("config", "show")["configuration"]["backup"]["parallel"] == 1


class TestCheck:
    def test_a_whole_database(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web")
        before = tree(operator.nas)
        assert findings(operator)[0] == ExitCode.DONE
        assert operator.json("statedb", "check") == {
            "schema": 1,
            "generations": 2,
            "oldest": 1,
            "head": 2,
            "bundles": 0,
            "removed": None,
            "findings": [],
        }
        assert tree(operator.nas) == before

    def test_there_is_none(self, operator: Operator) -> None:
        assert findings(operator)[0] == ExitCode.NO_DATABASE

    def test_the_history_is_read_too(self, site_with_database: Operator) -> None:
        operator = site_with_database
        operator.add_vms("web")
        operator.set("web", status=State.RUNNING)
        operator.database().files.run(protocol.prune(1))
        assert operator.json("statedb", "check")["generations"] == 3
        path = operator.vmstate / "history" / "0000000" / generation_name(2)
        path.chmod(0o600)
        path.write_bytes(b"torn")
        status, output = findings(operator)
        assert status == ExitCode.FAILURE
        assert "generation 2 of the state database is damaged" in output
        assert "serve the log only" in output

    def test_a_damaged_newest_generation_is_set_aside_and_work_goes_on(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        operator.add_vms("web")
        operator.set("web", status=State.RUNNING)
        number = damage(operator)
        status, output = findings(operator)
        assert status == ExitCode.FAILURE
        assert f"--set-aside {number}" in output
        status, output = findings(operator, "--set-aside", str(number))
        assert status == ExitCode.DONE, output
        assert (operator.vmstate / "damaged").is_dir()
        assert (operator.vmstate / "vmtool-statedb").read_text() == "web:NEW\n"
        assert operator.record("web").status == State.NEW
        operator.set("web", status=State.BACKUP_NECESSARY)
        assert operator.database().head().generation == number
        assert findings(operator)[0] == ExitCode.DONE

    def test_two_damaged_ones_are_set_aside_one_after_the_other(
        self, site_with_database: Operator
    ) -> None:
        operator = site_with_database
        operator.add_vms("web")
        operator.add_vms("db")
        for number in (2, 3):
            damage(operator, number)
        for number in (3, 2):
            findings(operator, "--set-aside", str(number))
        assert operator.database().head().generation == 1

    def test_a_generation_that_is_whole_stays(self, site_with_database: Operator) -> None:
        site_with_database.add_vms("web")
        for number in ("1", "2", "7"):
            assert findings(site_with_database, "--set-aside", number)[0] == ExitCode.USAGE
        assert site_with_database.database().head().generation == 2

    def test_the_last_one_stays_even_if_damaged(self, site_with_database: Operator) -> None:
        damage(site_with_database)
        status, output = findings(site_with_database, "--set-aside", "1")
        assert status == ExitCode.USAGE
        assert "backup of the NAS" in output

    def test_a_generation_of_another_database_breaks_the_chain(
        self, site_with_database: Operator, tmp_path: Path
    ) -> None:
        operator = site_with_database
        operator.add_vms("web")
        other = Operator(tmp_path / "other")
        other.vmstate.parent.mkdir(parents=True)
        other.configure()
        other.create()
        for name in ("a", "b"):
            other.add_vms(name)
        (operator.vmstate / "gen" / generation_name(3)).write_bytes(
            (other.vmstate / "gen" / generation_name(3)).read_bytes()
        )
        status, output = findings(operator)
        assert status == ExitCode.FAILURE
        assert "does not follow" in output
        findings(operator, "--set-aside", "3")
        assert operator.database().head().generation == 2

    def test_a_missing_generation_is_reported(self, site_with_database: Operator) -> None:
        operator = site_with_database
        for name in ("a", "b", "c"):
            operator.add_vms(name)
        (operator.vmstate / "gen" / generation_name(2)).unlink()
        status, output = findings(operator)
        assert status == ExitCode.FAILURE
        assert "generations 2 to 2 are missing" in output

    @pytest.mark.parametrize(
        "content", [b"", b"nonsense", b"DB_VERSION: 1.1\nLEASE_SECONDS: 77\n", None]
    )
    def test_a_damaged_version_file_is_rebuilt(
        self, site_with_database: Operator, content: bytes | None
    ) -> None:
        operator = site_with_database
        before = operator.database().version
        path = operator.vmstate / "vmtool-db-version"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert "--rebuild-version" in findings(operator)[1]
        assert operator.admin("statedb", "check", "--lease-seconds", "60").exit_code == 2
        assert findings(operator, "--rebuild-version", "--lease-seconds", "60")[0] == ExitCode.DONE
        after = operator.database().version
        assert (after.repository, after.primitive, after.lease_seconds) == (
            before.repository,
            before.primitive,
            60,
        )
        assert len(list(operator.vmstate.glob("vmtool-db-version.damaged-*"))) == (
            1 if content else 0
        )

    def test_the_lease_time_is_taken_from_what_is_left(self, site_with_database: Operator) -> None:
        (site_with_database.vmstate / "vmtool-db-version").write_bytes(
            b"DB_VERSION: torn\nLEASE_SECONDS: 77\n"
        )
        findings(site_with_database, "--rebuild-version")
        assert site_with_database.database().version.lease_seconds == 77

    @pytest.mark.parametrize("lease", ["7200", "0", "0.001", "1.2.3"])
    def test_a_lease_time_that_cannot_be_is_not_written_again(
        self, site_with_database: Operator, lease: str
    ) -> None:
        path = site_with_database.vmstate / "vmtool-db-version"
        whole = path.read_text().splitlines(keepends=True)
        path.write_text(
            "".join(f"LEASE_SECONDS: {lease}\n" if "LEASE" in line else line for line in whole)
        )
        assert findings(site_with_database, "--rebuild-version")[0] == ExitCode.DONE
        assert site_with_database.database().version.lease_seconds == DEFAULT_LEASE_SECONDS

    @pytest.mark.parametrize("kind", ["directory", "pipe", "device", "link"])
    def test_a_view_that_is_no_file_is_not_for_a_worker_to_mend(
        self, site_with_database: Operator, kind: str
    ) -> None:
        plant(site_with_database.vmstate / "vmtool-statedb", kind)
        status, output = findings(site_with_database)
        assert (status, "no ordinary file" in output) == (ExitCode.FAILURE, True)
        assert "move it away" in output
        assert "find out who put it there" in site_with_database.admin("statedb", "adopt").stderr

    def test_a_version_file_that_is_whole_stays(self, site_with_database: Operator) -> None:
        before = (site_with_database.vmstate / "vmtool-db-version").read_bytes()
        assert findings(site_with_database, "--rebuild-version")[0] == ExitCode.USAGE
        assert (site_with_database.vmstate / "vmtool-db-version").read_bytes() == before

    def test_a_database_of_a_newer_program_is_left_alone(
        self, site_with_database: Operator
    ) -> None:
        path = site_with_database.vmstate / "vmtool-db-version"
        path.write_text(path.read_text().replace("DB_VERSION: 2.0", "DB_VERSION: 3.0"))
        assert "update vmbackup" in findings(site_with_database)[1]
        result = site_with_database.admin("status")  # reads what can be read, and says so
        assert (result.exit_code, "update vmbackup" in result.stderr) == (ExitCode.DONE, True)
        assert "update vmbackup" in findings(site_with_database, "--rebuild-version")[1]

    def test_the_directory_primitive(
        self, operator: Operator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shared.state.store.create.probe_primitive", lambda _root: "directory")
        operator.create()
        operator.add_vms("web")
        operator.set("web", status=State.RUNNING)
        assert findings(operator)[0] == ExitCode.DONE
        assert operator.json("log")["commits"][-1]["changes"] == ["web NEW -> RUNNING"]
        (operator.vmstate / "gen" / generation_name(3) / "snapshot").write_bytes(b"torn")
        findings(operator, "--set-aside", "3")
        assert operator.record("web").status == State.NEW
        (operator.vmstate / "vmtool-db-version").write_bytes(b"")
        findings(operator, "--rebuild-version")
        assert operator.database().version.primitive == "directory"


class TestMigrate:
    def test_a_database_of_version_1_0(self, operator: Operator) -> None:
        operator.vmstate.mkdir()
        (operator.vmstate / "vmtool-statedb").write_text("vm1:RUNNING\nvm2:CLEAN\n")
        (operator.vmstate / "vmtool-db-version").write_text("TOOL_VERSION: 0.0\nDB_VERSION: 1.0\n")
        (operator.vmstate / "vm1.state").write_text("left by an older script")
        result = operator.admin("status")
        assert "statedb migrate" in result.stderr
        result = operator.admin("statedb", "migrate")
        assert result.exit_code == ExitCode.DONE
        assert "vm1, vm2" in result.stdout
        assert {key: record.status for key, record in operator.contents.vms.items()} == {
            "vm1": State.RUNNING,
            "vm2": State.CLEAN,
        }
        assert (operator.vmstate / "vmtool-statedb.1.0").read_text() == "vm1:RUNNING\nvm2:CLEAN\n"
        assert operator.admin("status").exit_code == ExitCode.DONE

    def test_there_is_nothing_to_migrate(
        self, site_with_database: Operator, operator: Operator
    ) -> None:
        result = site_with_database.admin("statedb", "migrate")
        assert result.exit_code == ExitCode.NO_DATABASE
        assert "nothing has to be migrated" in result.stderr

    @pytest.mark.parametrize("words", [[], ["--dry-run"]])
    @pytest.mark.parametrize("made", ["nothing", "empty", "file"])
    def test_before_init_it_says_how_to_make_a_database(
        self, operator: Operator, words: list[str], made: str
    ) -> None:
        if made == "empty":
            operator.vmstate.mkdir()
        elif made == "file":
            operator.vmstate.write_text("")
        result = operator.admin("statedb", "migrate", *words)
        assert result.exit_code == ExitCode.NO_DATABASE, result.stderr
        assert "there is no state database" in result.stderr
        assert "vmbackup-admin init" in result.stderr

    def test_lines_that_are_none_are_named(self, operator: Operator) -> None:
        operator.vmstate.mkdir()
        (operator.vmstate / "vmtool-statedb").write_text("vm1:RUNNING\nwhat is this\n")
        result = operator.admin("statedb", "migrate")
        assert result.exit_code == ExitCode.FAILURE
        assert "line 2" in result.stderr
        assert not (operator.vmstate / "gen").exists()


class TestAdopt:
    @pytest.fixture
    def edited(self, site_with_database: Operator) -> Operator:
        operator = site_with_database
        operator.add_vms("web", "db")
        operator.set("web", status=State.CLEAN, last_copy=copy())
        return operator

    def edit(self, operator: Operator, old: str, new: str) -> None:
        path = operator.vmstate / "vmtool-statedb"
        text = path.read_text()
        assert old in text
        path.unlink()
        path.write_text(text.replace(old, new))

    def test_a_state_set_by_hand(self, edited: Operator) -> None:
        self.edit(edited, "web:CLEAN", "web:BACKUP_NECESSARY")
        assert "CLEAN -> BACKUP_NECESSARY" in edited.admin("statedb", "adopt", "--dry-run").stdout
        assert edited.record("web").status == State.CLEAN
        assert edited.admin("statedb", "adopt").exit_code == ExitCode.DONE
        assert edited.record("web").status == State.BACKUP_NECESSARY
        assert list(edited.vmstate.glob("vmtool-statedb.adopted-*"))
        assert not list(edited.vmstate.glob("vmtool-statedb.edited-*"))
        assert "web:BACKUP_NECESSARY" in (edited.vmstate / "vmtool-statedb").read_text()
        assert edited.admin("statedb", "adopt").exit_code == ExitCode.USAGE

    def test_what_others_did_since_the_edit_is_not_undone(self, edited: Operator) -> None:
        """The edit is found by a commit that itself changes another VM.

        Only the line that the editor changed counts.
        """
        self.edit(edited, "web:CLEAN", "web:BACKUP_NECESSARY")
        edited.set("db", status=State.RUNNING)
        result = edited.admin("statedb", "adopt")
        assert result.exit_code == ExitCode.DONE
        assert "db: NEW was its state just before" in result.stderr
        assert edited.record("web").status == State.BACKUP_NECESSARY
        assert edited.record("db").status == State.RUNNING

    @pytest.mark.parametrize(
        ("new", "code"),
        [
            ("db:BACKUP_IN_PROGRESS", ExitCode.STATE_REFUSED),
            ("db:CLEAN", ExitCode.STATE_REFUSED),
            ("db:ARCHIVED", ExitCode.STATE_REFUSED),
            ("nobody:NEW", ExitCode.USAGE),
            ("db:NONSENSE", ExitCode.FAILURE),
        ],
    )
    def test_what_makes_no_sense_is_refused_and_kept(
        self, edited: Operator, new: str, code: ExitCode
    ) -> None:
        self.edit(edited, "db:NEW", new)
        before = edited.contents
        assert edited.admin("statedb", "adopt").exit_code == code
        assert edited.contents == before
        assert list(edited.vmstate.glob("vmtool-statedb.edited-*"))

    def test_not_while_somebody_works_on_the_vm(self, edited: Operator) -> None:
        with edited.session() as session:
            edited.claim(session, "web")
            self.edit(edited, "web:BACKUP_IN_PROGRESS", "web:RUNNING")
            assert edited.admin("statedb", "adopt").exit_code == ExitCode.LOCKED

    def test_a_line_that_was_removed_forgets_nothing(self, edited: Operator) -> None:
        self.edit(edited, "db:NEW\n", "")
        assert edited.admin("statedb", "adopt").exit_code == ExitCode.DONE
        assert "db" in edited.contents.vms

    def test_an_edit_by_name(self, edited: Operator) -> None:
        self.edit(edited, "web:CLEAN", "web:BACKUP_NECESSARY")
        edited.database().publish_view()
        name = next(edited.vmstate.glob("vmtool-statedb.edited-*")).name
        assert (
            edited.admin("statedb", "adopt", "vmtool-statedb.edited-1-abc").exit_code
            == ExitCode.USAGE
        )
        assert edited.admin("statedb", "adopt", name).exit_code == ExitCode.DONE

    def test_an_edit_is_reported_by_check(self, edited: Operator) -> None:
        self.edit(edited, "web:CLEAN", "web:RUNNING")
        status, output = findings(edited)
        assert status == ExitCode.FAILURE
        assert "next worker repairs it" in output
        edited.database().publish_view()
        assert "was edited by hand" in findings(edited)[1]


def test_an_interrupted_init_is_finished_by_the_next_one(operator: Operator) -> None:
    for name in ("", "gen", "history", "node", "tmp"):
        (operator.vmstate / name).mkdir()
    assert operator.admin("init").exit_code == ExitCode.DONE
    assert operator.admin("status").exit_code == ExitCode.DONE


@pytest.mark.parametrize("digit", ["²", "٣"])
def test_digits_that_are_no_numbers_are_passed_over(
    site_with_database: Operator, digit: str
) -> None:
    """Unicode has digits of which no number can be made, and such as stand for a number under
    another name.
    """
    web = site_with_database
    web.add_vms("web01")
    for folder in ("gen", "history", "history/0000000"):
        for length in (1, 7, 20):
            (web.vmstate / folder / (digit * length)).mkdir(parents=True)
    for words in (["statedb", "check"], ["log"], ["status"], ["show", "web01"]):
        result = web.admin(*words)
        assert result.exit_code == ExitCode.DONE, (words, result.output, result.exception)
