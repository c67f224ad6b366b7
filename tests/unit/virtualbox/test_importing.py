"""Which copies may be imported, and what VBoxManage's answers mean."""

from pathlib import Path

import pytest

from shared.host.clock import SystemClock
from shared.host.errors import CopyError, UsageError, VBoxManageError
from shared.host.processes import SubprocessRunner
from shared.virtualbox.importing import (
    ImportFailedError,
    ImportPlan,
    RunningImport,
    default_folder,
    folder_name,
    refuse_unsafe,
    refuse_unusable_name,
)
from shared.virtualbox.settings_writing import parse_settings, render_settings
from shared.virtualbox.vboxmanage import VBoxManage
from tests.unit.virtualbox.fakes import FakeRunner


@pytest.mark.parametrize(
    "name",
    [
        "../../x-disk001.vmdk",
        "/etc/x-disk001.vmdk",
        "a/../../x.vmdk",
        "..",
        ".",
        "a/./b.vmdk",
        "sub/",
        "x/..",
        "/",
    ],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str) -> None:
    with pytest.raises(CopyError, match="outside"):
        refuse_unsafe(["x.ovf", name, "x.mf"])


@pytest.mark.parametrize(
    "name",
    [
        "web-disk001.vmdk",
        "web: 01/ü-disk001.vmdk",
        "a..b.vmdk",
        "..vmdk",
        "a\\..\\b.vmdk",
        "a/b/c.vmdk",
    ],
)
def test_other_names_are_not(name: str) -> None:
    refuse_unsafe([name])


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("web01", "web01"),
        ("web: 01/ü", "web_ 01_ü"),
        ("..", "__"),
        (".hid", "_hid"),
        ("-dash", "_dash"),
        (" sp ", "_sp_"),
        ("x.", "x_"),
        ("😀", "____"),
    ],
)
def test_the_folder_of_a_vm(name: str, folder: str) -> None:
    assert folder_name(name) == folder
    assert ImportPlan(Path("/nas/x.ova"), name, Path("/vms")).folder == Path("/vms") / folder


def test_the_place_of_new_vms() -> None:
    said = {
        ("list", "systemproperties"): [
            (
                0,
                "API version:   7_2\nDefault machine folder:          /home/me/VirtualBox VMs\n",
                "",
            )
        ]
    }
    assert default_folder(VBoxManage("VBoxManage", FakeRunner(said), 5)) == Path(
        "/home/me/VirtualBox VMs"
    )
    with pytest.raises(VBoxManageError, match="where it puts new VMs"):
        default_folder(
            VBoxManage("VBoxManage", FakeRunner({("list", "systemproperties"): [(0, "", "")]}), 5)
        )


def run(folder: Path, script: str, *, keep_macs: bool = True) -> RunningImport:
    program = folder / "VBoxManage"
    reached = 'test "$1" = list && exit 0'
    program.write_text(
        f"#!/bin/sh\n{reached}\nprintf '%s\\n' \"$@\" >'{folder}/arguments'\n{script}\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    clock = SystemClock()
    made = RunningImport(
        VBoxManage(str(program), SubprocessRunner(), 5, clock=clock),
        folder / "x.ova",
        "-odd",
        folder / "vms" / "odd" / "odd.vbox",
        keep_macs=keep_macs,
    )
    for _ in range(200):
        if made.poll():
            return made
        clock.sleep(0.05)
    raise AssertionError("it still runs")


READ = "printf '0%%...100%%\\nInterpreting x...\\nOK.\\n' >&2;"


def test_its_arguments_and_progress(tmp_path: Path) -> None:
    done = run(tmp_path, f"{READ} printf '0%%...10%%...70%%' >&2")
    done.result()  # which waits until all that it printed was read
    assert done.progress() == 70
    words = (tmp_path / "arguments").read_text().splitlines()
    assert words[:2] == ["import", str(tmp_path / "x.ova")]
    assert words[2:] == [
        "--vsys",
        "0",
        "--vmname=-odd",
        f"--settingsfile={tmp_path / 'vms' / 'odd' / 'odd.vbox'}",
        "--options=keepallmacs,importtovdi",
    ]


def test_reading_the_description_is_no_progress(tmp_path: Path) -> None:
    assert run(tmp_path, "printf '0%%...100%%\\nInterpreting x...\\n' >&2").progress() == 0


def test_new_network_addresses(tmp_path: Path) -> None:
    run(tmp_path, "true", keep_macs=False)
    assert (tmp_path / "arguments").read_text().splitlines()[-1] == "--options=importtovdi"


@pytest.mark.parametrize(
    ("printed", "meaning"),
    [
        ("Could not create (VERR_DISK_FULL)", "this host's disk is full"),
        ("Digest mismatch (VERR_NOT_EQUAL)", "damaged while it was read"),
        ("odd", "odd"),
    ],
)
def test_what_a_failure_means(tmp_path: Path, printed: str, meaning: str) -> None:
    failed = run(tmp_path, f"{READ} echo '0%...VBoxManage: error: {printed}' >&2; exit 1")
    with pytest.raises(ImportFailedError, match=meaning):
        failed.result()


def test_an_error_with_status_0_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ImportFailedError):
        run(tmp_path, "echo 'VBoxManage: error: no' >&2").result()


def test_a_vboxsvc_that_is_just_ending_is_waited_for(tmp_path: Path) -> None:
    run(tmp_path, f"{READ} {_unreached(tmp_path, 'once')} printf '0%%...100%%' >&2").result()
    assert (tmp_path / "once").exists()


@pytest.mark.broad
def test_one_that_is_never_reached_is_told(tmp_path: Path) -> None:
    failed = run(tmp_path, f"{READ} echo x >>'{tmp_path}/attempts'; {UNREACHED}; exit 1")
    with pytest.raises(ImportFailedError, match="Failed to create"):
        failed.result()
    assert (tmp_path / "attempts").read_text().count("x") == 5


UNREACHED = "echo 'VBoxManage: error: Failed to create the VirtualBox object!' >&2"


def _unreached(folder: Path, mark: str) -> str:
    """The first time it ends like that."""
    return f"if ! test -e '{folder}/{mark}'; then touch '{folder}/{mark}'; {UNREACHED}; exit 1; fi;"


@pytest.mark.parametrize("name", ["", "a\0b", "a\x1bb", "a\x0bb", "a\ud800b", "a\uffffb"])
def test_a_name_that_no_settings_file_can_hold_is_refused(name: str) -> None:
    """A sidecar on the NAS says it, and what it is written into could not be read again."""
    with pytest.raises(UsageError, match=r"name|called"):
        refuse_unusable_name(name)


@pytest.mark.parametrize("name", ["a\tb\nc", "日本 \x85\u2028", "😀", "..", "-x"])
def test_a_name_that_a_settings_file_holds_comes_back(name: str) -> None:
    refuse_unusable_name(name)
    tree = parse_settings(b"<VirtualBox><Machine/></VirtualBox>")
    tree[0].set("name", name)
    assert parse_settings(render_settings(tree))[0].get("name") == name


@pytest.mark.parametrize(
    "name", ["x" * 228, "é" * 114, "😀" * 57], ids=["letters", "accents", "as underscores"]
)
def test_no_vm_has_a_name_too_long_for_its_files(name: str) -> None:
    """VirtualBox writes `NAME.vbox-prev`, and disks are called after the VM, too."""
    refuse_unusable_name(name[:-1])
    with pytest.raises(UsageError, match="too long"):
        refuse_unusable_name(name)
