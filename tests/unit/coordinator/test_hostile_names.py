"""Names that would drive a terminal, forge a line or turn the writing around, in each command."""

import json
from dataclasses import replace

import pytest

from shared.copies.sidecar_fields import Rehearsed, Verified
from shared.host.printable import option, printable, quoted
from shared.state.hold import Hold
from shared.state.records import RehearsalRecord, Restoration
from shared.state.states import State
from shared.tasks import boot_note
from shared.tasks.boot_note import BootNote
from tests.support.copies import put_copy
from tests.unit.coordinator.conftest import Operator, copy, uuid

NAME = "a\x1b[31m\x9b2J\u202egnp\u2066\x07\r\nwarning: forged 'b c"
OLD, STAMP = "20261121T203800Z-16", "20261122T203800Z-17"
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("admin", "status"),
    ("admin", "show", NAME),
    ("admin", "show", NAME + "?"),
    ("admin", "copies"),
    ("admin", "copies", NAME),
    ("admin", "prune", "--dry-run"),
    ("admin", "prune", NAME),
    ("admin", "pin", NAME, OLD),
    ("admin", "pin", NAME, OLD, "--dry-run"),
    ("admin", "pin", NAME, NAME),
    ("admin", "unpin", NAME, OLD),
    ("admin", "verify", NAME, "--dry-run"),
    ("admin", "verify", NAME),
    ("admin", "remove", NAME, OLD, "--dry-run"),
    ("admin", "remove", NAME, NAME, "--yes"),
    ("admin", "restore", NAME, "--dry-run"),
    ("admin", "restore", NAME, "--copy", NAME),
    ("admin", "rehearse", NAME, "--copy", NAME),
    ("admin", "archive", NAME, "--dry-run"),
    ("admin", "activate", NAME),
    ("admin", "forget", NAME, "--dry-run"),
    ("admin", "log"),
    ("admin", "log", "--vm", NAME),
    ("admin", "doctor"),
    ("admin", "config", "show"),
    ("admin", "statedb", "check"),
    ("admin", "statedb", "adopt", NAME),
    ("admin", NAME),
    ("admin", "status", NAME),
    ("lock", "list"),
    ("lock", "show", NAME),
    ("lock", "break", NAME, "--dry-run"),
    ("lock", "break", NAME + "?"),
    ("lock", "recover", "--dry-run"),
    ("lock", "recover", NAME, "--dry-run"),
    ("admin", "check"),
    ("admin", "check", NAME),
    ("admin", "compare", NAME, OLD, STAMP),
    ("admin", "compare", NAME, NAME, STAMP),
    ("admin", "compare", NAME, OLD, STAMP, "--files"),
    ("admin", "files", NAME),
    ("admin", "files", NAME, NAME, "--copy", NAME),
    ("admin", "files", NAME, NAME, "--get", NAME, "--dry-run"),
    ("admin", "mount", NAME, NAME),
    ("admin", "mount", NAME, "/", "--dry-run"),
    ("admin", "umount", NAME),
    ("admin", "restore", NAME, "--into", "--dry-run"),
    ("admin", "restore", NAME, "--into", "--copy", NAME),
    ("admin", "restore", NAME, "--finish"),
    ("admin", "restore", NAME, "--disk", NAME, "--to", NAME),
    ("admin", "boot"),
    ("admin", "boot", NAME, "--dry-run"),
    ("admin", "boot", NAME, "--as", NAME),
    ("admin", "boot", NAME, "--finish"),
    ("admin", "boot", NAME, "--discard", "--yes"),
    ("admin", "rehearse", NAME, "--dry-run"),
    ("admin", "rehearse", NAME, "--boot", "--set", NAME),
    ("admin", "report"),
    ("admin", "report", NAME, "--since", NAME),
    ("admin", "space"),
    ("admin", "space", NAME),
    ("admin", "notify", "--test", NAME),
    ("lock", "break", "d@" + OLD),
    ("admin", "archive", NAME),
    ("admin", "activate", NAME, "--dry-run"),
    ("admin", "forget", NAME),
)


@pytest.fixture
def hostile(site_with_database: Operator) -> Operator:
    """A VM whose name, host, last error and copies say what nobody should print as it is."""
    operator = site_with_database
    operator.add_vms(NAME)
    operator.set(
        NAME, status=State.CLEAN, last_copy=copy(STAMP), last_error=NAME, also_on=NAME, failures=1
    )
    operator.commit(
        lambda contents: contents.with_vm(
            replace(contents.vms[NAME], key="other", uuid=uuid(7), node=NAME, missing_since=NAME)
        ),
        NAME,
    )
    hold = Hold(STAMP, NAME, NAME, NAME, NAME, NAME)
    tried = RehearsalRecord(STAMP, NAME, NAME, NAME)
    operator.set(NAME, holds=(hold,), rehearsed=tried, restored=Restoration(OLD, *[NAME] * 4))
    put_copy(operator.nas / NAME, OLD, vm=NAME, verified=Verified(NAME, NAME))
    seen = Rehearsed(NAME, NAME, NAME, NAME, booted=True)
    put_copy(operator.nas / NAME, STAMP, vm=NAME, node=NAME, rehearsed=seen, holds=(hold,))
    note = boot_note.new_file(operator.configuration.host.state_directory)
    boot_note.write(BootNote(note, operator.folder / NAME, *[NAME] * 6, (), NAME))
    put_copy(operator.nas / NAME, "20261120T203800Z-15", vm=NAME, uuid=uuid(9))
    return operator


@pytest.mark.parametrize("as_json", [False, True])
def test_no_command_prints_what_a_terminal_would_obey(
    hostile: Operator, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.host.logs.set_up", lambda **_: None)  # tests/unit/host/test_logs.py
    for program, *arguments in COMMANDS:
        options = ["--json"] if as_json and arguments[:1] != [NAME] else []
        result = getattr(hostile, program)(*arguments, *options)
        for stream in (result.stdout, result.stderr):
            wrong = {one for one in stream if not one.isprintable() and one != "\n"}
            assert not wrong, (arguments, stream)
            assert not any(line.startswith("warning: forged") for line in stream.split("\n")), (
                arguments,
                stream,
            )
        assert "Traceback" not in result.stderr, (arguments, result.stderr)
        if options:
            for line in result.stderr.splitlines():
                assert json.loads(line).keys() <= {"error", "warning"}, (arguments, line)


def test_json_has_the_name_as_it_is(hostile: Operator) -> None:
    assert NAME in {vm["name"] for vm in hostile.json("status")["vms"]}


def test_a_machine_of_a_hostile_name_is_shown_harmlessly(hostile: Operator) -> None:
    hostile.commit(
        lambda contents: replace(
            contents, nodes={"alpha": replace(contents.nodes["alpha"], machine=NAME)}
        ),
        machine="",
    )
    result = hostile.admin("forget", NAME)
    assert "another machine" in result.stderr
    assert all(one.isprintable() or one == "\n" for one in result.output)


def test_hints_name_a_vm_so_that_a_shell_takes_it(hostile: Operator) -> None:
    hostile.add_vms("name with space", "-rf")
    assert "`vmbackup-admin copies 'name with space'`" in (
        hostile.admin("restore", "name with space").stderr
    )
    assert "`vmbackup-admin copies -- -rf`" in hostile.admin("restore", "--", "-rf").stderr


def test_what_is_printable_stays() -> None:
    assert printable("日本 é web01 ~") == "日本 é web01 ~"
    assert printable("a\x1b\u202e\udc80\n") == "a\\x1b\\u202e\\udc80\\n"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("web01", "web01"),
        ("a b", "'a b'"),
        ("$(x)", "'$(x)'"),
        ("-x", "-- -x"),
        ("it's\n\\ \x1b", r"$'it\'s\n\\ \x1b'"),
    ],
)
def test_a_quoted_name_is_one_word_of_a_shell(name: str, word: str) -> None:
    assert quoted(name) == word


def test_a_name_that_looks_like_an_option_can_be_the_value_of_one() -> None:
    said = Hold(STAMP, "alpha", "-x", "2026-11-22T20:38:00Z").ends
    assert "boot --finish=-x, or --discard=-x;" in said
    assert option("--vm", "-a b") == "--vm='-a b'"
    assert option("--vm", "a b") == "--vm 'a b'"
