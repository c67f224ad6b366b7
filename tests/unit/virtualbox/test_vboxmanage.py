"""What VBoxManage prints, and what is believed of it. Texts are those of VirtualBox 7.2.22."""

import pytest

from shared.host.errors import VBoxManageError, VBoxManageTimeoutError
from shared.host.processes import Completed
from shared.virtualbox.vboxmanage import VBoxManage
from shared.virtualbox.vboxmanage_output import Listed, complaint, parse_info, parse_list
from tests.unit.virtualbox.fakes import TIMED_OUT, A, B, C, FakeRunner

NO_DRIVER = """WARNING: The character device /dev/vboxdrv does not exist.
\t Please install the virtualbox-dkms package and the appropriate
\t headers, most likely linux-headers-cloud-amd64.

\t You will not be able to start VMs until this problem is fixed.
"""
NOT_READY = (
    1,
    "",
    (
        "VBoxManage: error: The object is not ready\nVBoxManage: error: Details: code "
        "E_ACCESSDENIED (0x80070005)\n"
    ),
)
UNREACHED = (
    1,
    "",
    (
        "VBoxManage: error: Failed to create the VirtualBox object!\nVBoxManage: error: Code "
        "NS_ERROR_FAILURE (0x80004005)\n"
    ),
)
DENIED = (
    1,
    "",
    (
        "VBoxManage: error: The object functionality is limited\n"
        "VBoxManage: error: Details: code E_ACCESSDENIED (0x80070005), component MachineWrap, "
        "interface IMachine, callee nsISupports\n"
        'VBoxManage: error: Context: "LockMachine(a->session, LockType_Shared)" at line 3328 of '
        "file VBoxManageInfo.cpp\n"
    ),
)


class Naps:
    """A clock that only counts how long it was asked to sleep."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)


def vboxmanage(**answers: list[tuple[int, str, str]]) -> tuple[VBoxManage, FakeRunner, Naps]:
    runner = FakeRunner({tuple(words.split("_")): given for words, given in answers.items()})
    naps = Naps()
    return VBoxManage("VBoxManage", runner, 7, {"VBOX_USER_HOME": "/x"}, naps), runner, naps  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f'"plain" {{{A}}}', "plain"),
        (f'"quo"te" {{{A}}}', 'quo"te'),
        (f'"-dash" {{{A}}}', "-dash"),
        (f'".." {{{A}}}', ".."),
        (f'"{B}" {{{A}}}', B),
        (f'"looks" {{{B}}} like" {{{A}}}', f'looks" {{{B}}} like'),
        (f'"<inaccessible>" {{{A}}}', None),
        (f'"x<inaccessible>" {{{A}}}', "x<inaccessible>"),
        (f'"tab\there\rand return" {{{A}}}', "tab\there\rand return"),
        (f'"two\nlines" {{{A}}}', "lines"),
    ],
)
def test_one_vm_whatever_its_name(line: str, name: str | None) -> None:
    assert parse_list(NO_DRIVER + line + "\n") == (Listed(A, name),)


def test_warnings_and_rubbish_are_no_vms() -> None:
    assert parse_list(f'{NO_DRIVER}"cut off" {{{A}\n"upper" {{{A.upper()}}} x\n') == ()


def test_names_are_read_with_the_right_locale_and_home() -> None:
    box, runner, _ = vboxmanage(list_vms=[(0, f'"ü" {{{A}}}\n', "")])
    assert box.list_vms() == (Listed(A, "ü"),)
    assert runner.environments == [{"VBOX_USER_HOME": "/x", "LC_ALL": "C.UTF-8"}]


def information(name: str, *after: str) -> str:
    lines = [
        f'name="{name}"',
        f'UUID="{A}"',
        'CfgFile="/vms/x.vbox"',
        'VMState="poweroff"',
        'VMStateChangeTime="2026-11-22T18:24:12.018000000"',
    ]
    return "\n".join([*lines, *after]) + "\n"


def test_names_of_snapshots_cannot_forge_a_state() -> None:
    forged = ['SnapshotName="x"', 'VMState="running"', f'UUID="{B}"', 'CurrentSnapshotUUID="s"']
    info = parse_info(information("web01", *forged))
    assert (info.uuid, info.state, info.snapshot, info.changed) == (
        A,
        "poweroff",
        "s",
        "2026-11-22T18:24:12",
    )


@pytest.mark.parametrize(
    ("printed", "name"),
    [
        (r"back\\slash \"quoted\"", 'back\\slash "quoted"'),
        ('two\nVMState=\\"running\\"\nUUID=1', 'two\nVMState="running"\nUUID=1'),
        ("", ""),
    ],
)
def test_vm_names_cannot_forge_a_state(printed: str, name: str) -> None:
    info = parse_info(NO_DRIVER + information(printed))
    assert (info.name, info.state, info.uuid) == (name, "poweroff", A)


@pytest.mark.parametrize(
    ("lines", "plugged", "unplugged"),
    [
        (('cableconnected1="off"', 'nic1="nat"', 'nic2="none"'), (), (1,)),
        (('cableconnected1="off"', 'cableconnected2="on"', 'cableconnected10="on"'), (2, 10), (1,)),
        (('cableconnected1="on"', 'cableconnected1="off"'), (1,), ()),
        (('nic1="none"',), (), ()),
    ],
)
def test_a_cable_of_any_card_may_be_plugged_in(
    lines: tuple[str, ...], plugged: tuple[int, ...], unplugged: tuple[int, ...]
) -> None:
    info = parse_info(information("x", *lines))
    assert (info.plugged, info.unplugged) == (plugged, unplugged)


def test_media_are_found_by_controller_port_and_device() -> None:
    text = information(
        "x",
        '"A-1-0-0"="/a.vdi"',
        f'"A-1-ImageUUID-0-0"="{B}"',
        '"IDE-1-0"="none"',
        f'"A-1-ImageUUID-0-0"="{C}"',
    )
    assert [(medium.uuid, medium.path) for medium in parse_info(text).media] == [(B, "/a.vdi")]


@pytest.mark.parametrize(
    ("state", "session", "stopped"),
    [
        *[(state, "", True) for state in ("poweroff", "saved", "aborted", "aborted-saved")],
        *[
            (state, "", False)
            for state in (
                "running",
                "paused",
                "starting",
                "stopping",
                "saving",
                "deletingsnapshot",
                "gurumeditation",
            )
        ],
        ("poweroff", "headless", False),
    ],
)
def test_stopped_is_only_what_is_off_for_certain(state: str, session: str, stopped: bool) -> None:
    text = information("x").replace('VMState="poweroff"', f'VMState="{state}"') + (
        f'SessionName="{session}"\n' if session else ""
    )
    assert parse_info(text).stopped is stopped


def test_output_without_a_state_is_an_error() -> None:
    with pytest.raises(VBoxManageError, match="no UUID and state"):
        parse_info('name="')


@pytest.mark.parametrize(
    ("status", "stderr", "failed"),
    [
        (0, "", False),
        (0, "0%...10%...100%\n", False),
        (1, "", True),
        (0, "0%...VBoxManage: error: late\n", True),
        (0, "VBoxManage.exe: error: late\n", True),
        (0, "VBoxManage: warning: harmless\n", False),
    ],
)
def test_status_and_stderr_must_both_be_clean(status: int, stderr: str, failed: bool) -> None:
    assert bool(complaint(Completed((), status, "", stderr))) is failed


def test_error_has_message_code_and_hint() -> None:
    box, _, naps = vboxmanage(**{f"showvminfo_{A}_--machinereadable": [DENIED]})
    with pytest.raises(
        VBoxManageError, match=r"functionality is limited \(E_ACCESSDENIED, status 1\)"
    ) as caught:
        box.info(A)
    assert "list --long vms" in caught.value.hint
    assert naps.seconds == []


def test_reads_are_repeated_on_errors_that_pass() -> None:
    box, runner, naps = vboxmanage(
        list_runningvms=[NOT_READY, NOT_READY, (0, f'"x" {{{A}}}\n', "")]
    )
    assert box.running() == {A}
    assert len(runner.calls) == 3
    assert len(naps.seconds) == 2


def test_a_command_is_repeated_only_if_vboxsvc_was_not_reached() -> None:
    box, runner, naps = vboxmanage(
        startvm_x=[UNREACHED, UNREACHED, (0, "", "")], startvm_y=[NOT_READY]
    )
    box.run("startvm", "x")
    assert len(runner.calls) == 3
    assert len(naps.seconds) == 2
    with pytest.raises(VBoxManageError, match="not ready"):
        box.run("startvm", "y")
    assert len(runner.calls) == 4


def test_repeating_ends() -> None:
    box, runner, naps = vboxmanage(list_vms=[NOT_READY])
    with pytest.raises(VBoxManageError, match="not ready"):
        box.list_vms()
    assert len(runner.calls) == 9
    assert sum(naps.seconds) < 10


def test_a_call_that_hangs_is_not_repeated() -> None:
    box, runner, _ = vboxmanage(list_vms=[(TIMED_OUT, "", "")])
    with pytest.raises(VBoxManageTimeoutError, match="within 7 s"):
        box.list_vms()
    assert len(runner.calls) == 1


def test_version_beside_warnings() -> None:
    box, _, _ = vboxmanage(**{"--version": [(0, NO_DRIVER + "7.2.22_Debianr175245\n", "")]})
    assert box.version() == "7.2.22_Debianr175245"
    assert box.warnings()[0].startswith(
        "WARNING: The character device /dev/vboxdrv does not exist. Please install"
    )
    assert "not be able to start VMs" in box.warnings()[1]


def test_no_warnings() -> None:
    box, _, _ = vboxmanage(**{"--version": [(0, "7.2.22_Debianr175245\n", "")]})
    assert box.warnings() == ()


def test_medium_state() -> None:
    box, _, _ = vboxmanage(
        showmediuminfo_disk_d=[
            (0, "UUID:           x\nState:          locked read\nType:   normal\n", "")
        ]
    )
    assert box.medium_state("d") == "locked read"


@pytest.mark.parametrize("uuid", ["", "web01", "-x", A.upper(), A + "\n"])
def test_only_uuids_are_put_into_commands(uuid: str) -> None:
    box, runner, _ = vboxmanage()
    with pytest.raises(VBoxManageError):
        box.info(uuid)
    assert runner.calls == []


def test_only_quick_questions_are_asked_twice() -> None:
    """Never what changes something, nor what reads a whole copy."""
    a = "aaaaaaaa-0000-0000-0000-000000000000"
    state, info = "State:          created", f'name="x"\nUUID="{a}"\nVMState="poweroff"\n'
    questions: dict[tuple[str, ...], list[tuple[int, str, str]]] = {
        ("list", "vms"): [(0, "", "")],
        ("list", "runningvms"): [(0, "", "")],
        ("--version",): [(0, "7.2.22r1\n", "")],
        ("showvminfo", a, "--machinereadable"): [(0, info, "")],
        ("showmediuminfo", "disk", a): [(0, state, "")],
    }
    others: dict[tuple[str, ...], list[tuple[int, str, str]]] = {
        ("controlvm", a, "savestate"): [(0, "", "")],
        ("import", "x", "--dry-run"): [(0, "", "")],
    }
    asking, runner = FakeRunner(questions), FakeRunner(others)
    vboxmanage = VBoxManage("VBoxManage", runner, 1, asking=asking)
    vboxmanage.list_vms(), vboxmanage.running(), vboxmanage.version()
    vboxmanage.info(a), vboxmanage.medium_state(a)
    vboxmanage.run("controlvm", a, "savestate")
    vboxmanage.read("import", "x", "--dry-run")
    assert (len(asking.calls), len(runner.calls)) == (5, 2)
