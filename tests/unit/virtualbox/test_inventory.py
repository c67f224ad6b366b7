"""The inventory: registry files that say which VMs there are, and lists that say which run."""

from dataclasses import replace
from pathlib import Path

import pytest

from shared.host.errors import VBoxManageError
from shared.virtualbox.storage import Image, files_of
from tests.unit.virtualbox.fakes import CHILD, DISK, OTHER, A, B, C, Host, image


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_names_come_from_the_settings_and_running_from_the_list(host: Host) -> None:
    host.add(A, 'quo"te', listed="whatever")
    host.add(B, "web02")
    host.running = f'"web02" {{{B}}}\n'
    found = host.take()
    assert {uuid: (vm.name, vm.running, vm.accessible) for uuid, vm in found.items()} == {
        A: ('quo"te', False, True),
        B: ("web02", True, True),
    }


def test_forged_line_is_no_vm(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.add(A, f'x" {{{B}}}\n"y')
    assert set(host.take()) == {A}
    assert B in caplog.text


def test_forged_line_does_not_make_a_vm_run(host: Host) -> None:
    """The VM that runs is the one whose name has a line that looks like the other."""
    host.add(A, f'web02" {{{B}}}\n"y')
    host.add(B, "web02")
    host.running = f'"web02" {{{B}}}\n"y" {{{A}}}\n'
    for uuid, state in ((A, "running"), (B, "poweroff")):
        host.info["showvminfo", uuid, "--machinereadable"] = [
            (0, f'name="x"\nUUID="{uuid}"\nVMState="{state}"\n', "")
        ]
    assert {uuid: vm.running for uuid, vm in host.take().items()} == {A: True, B: False}


def test_broken_settings_harm_no_other_vm(host: Host) -> None:
    host.add(A, "web01").unlink()
    host.add(B, "web02").write_text("<VirtualBox>")
    host.add(C, "web03")
    found = host.take()
    assert [(found[uuid].accessible, found[uuid].name) for uuid in (A, B, C)] == [
        (False, None),
        (False, None),
        (True, "web03"),
    ]
    assert "is not there" in found[A].reason
    assert "damaged" in found[B].reason


def test_settings_of_another_vm_are_not_believed(host: Host) -> None:
    host.registered[B] = str(host.add(A, "web01"))
    host.listed += f'"web01" {{{B}}}\n'
    found = host.take()
    assert found[A].accessible
    assert "another VM" in found[B].reason


@pytest.mark.parametrize(
    ("name", "listed", "accessible"),
    [
        ("web01", "<inaccessible>", False),
        ("<inaccessible>", "<inaccessible>", True),
        ('x\n"<inaccessible>', 'x\n"<inaccessible>', True),
        ("x\n<inaccessible>", "<inaccessible>", False),
    ],
)
def test_virtualbox_calls_a_vm_inaccessible(
    host: Host, name: str, listed: str, accessible: bool
) -> None:
    host.add(A, name, listed=listed)
    assert host.take()[A].accessible is accessible


def test_vm_that_is_registered_but_not_listed(host: Host) -> None:
    host.add(A, "web01")
    host.add(B, "web02")
    host.listed = f'"web01" {{{A}}}\n'
    assert host.take()[B].reason == "VirtualBox does not list it"


def test_chain_through_own_shared_and_other_registries(host: Host) -> None:
    host.add(
        A,
        "base",
        attached=OTHER,
        images=image(
            DISK, "base.vdi", image(OTHER, "Snapshots/other.vdi"), image(CHILD, "/clone/child.vdi")
        ),
    )
    host.add(B, "clone", attached=CHILD)
    host.images = image(C, "shared.vdi")
    host.add(C, "with a shared disk", attached=C)
    found = host.take()
    folder = str(host.folder)
    assert [entry.location for entry in found[A].images] == [
        f"{folder}/Snapshots/other.vdi",
        f"{folder}/base.vdi",
    ]
    assert [entry.location for entry in found[B].images] == [
        "/clone/child.vdi",
        f"{folder}/base.vdi",
    ]
    assert [entry.location for entry in found[C].images] == [str(host.home / "shared.vdi")]


@pytest.mark.parametrize(
    ("state", "running"), [("poweroff", False), ("saved", False), ("running", True)]
)
def test_one_vm_is_what_it_is_among_all(host: Host, state: str, running: bool) -> None:
    host.add(A, "web01", attached=DISK, images=image(DISK, "base.vdi"))
    host.add(B, "web02").unlink()
    host.running = f'"web01" {{{A}}}\n' if running else ""
    found = host.take_one(A, state)
    assert found is not None
    assert (replace(found, state=""), found.state) == (host.take()[A], state)
    assert found.stopped is not running


def test_one_that_is_off_with_an_open_dialog_does_not_run_and_is_not_free(host: Host) -> None:
    """It was not used, so a copy that was made before the dialog was opened counts."""
    host.add(A, "web01", attached=DISK, images=image(DISK, "base.vdi"))
    found = host.take_one(A, "poweroff", session="GUI/Qt")
    assert found is not None
    assert (found.running, found.opened, found.stopped) == (False, True, False)


def test_only_a_look_at_all_can_tell_of_one_that_stands_on_an_image_of_another(host: Host) -> None:
    parts = image(DISK, "base.vdi", image(CHILD, "/clone/child.vdi"))
    host.add(A, "base", attached=DISK, images=parts)
    host.add(B, "clone", attached=CHILD)
    assert host.take()[B].accessible
    assert host.take_one(B) is None


def test_only_a_look_at_all_says_why_one_cannot_be_used(host: Host) -> None:
    assert host.take_one(A) is None, "it is not registered"
    host.add(A, "web01").write_text("<VirtualBox>")
    assert host.take_one(A) is None
    host.add(B, "web02")
    host.info = {("showvminfo", B, "--machinereadable"): [(1, "", "VBoxManage: error: no")]}
    assert host.take_one(B) is None


def test_disk_in_no_registry(host: Host) -> None:
    host.add(A, "web01", attached=DISK)
    found = host.take()[A]
    assert DISK in found.reason
    assert found.images == ()


def test_chain_that_bites_its_tail_ends(host: Host) -> None:
    host.add(
        A, "web01", attached=DISK, images=image(DISK, "a", image(CHILD, "b", image(DISK, "c")))
    )
    assert "in no media registry" in host.take()[A].reason


def test_host_without_vms(host: Host) -> None:
    assert host.take() == {}


@pytest.mark.parametrize(
    ("registered", "listed"),
    [({A: "/a"}, ""), ({}, f'"x" {{{A}}}\n'), ({A: "/a"}, f'"x" {{{B}}}\n')],
)
def test_registry_of_another_user_is_refused(
    host: Host, registered: dict[str, str], listed: str
) -> None:
    host.registered, host.listed = registered, listed
    with pytest.raises(VBoxManageError) as caught:
        host.take()
    assert "virtualbox.home" in caught.value.hint


def test_nvram_file_beside_the_settings(host: Host) -> None:
    path = host.add(A, "web01")
    assert host.take()[A].nvram_file == str(path.with_suffix(".nvram"))
    path.write_text(
        path.read_text().replace(
            "<Hardware>", '<Hardware><Firmware type="EFI"><NVRAM path="own.nvram"/></Firmware>'
        )
    )
    assert host.take()[A].nvram_file == str(path.with_name("own.nvram"))


def test_files_of_images(tmp_path: Path) -> None:
    text = (
        '# Disk DescriptorFile\nversion=1\nRW 4096 FLAT "own-flat.vmdk" 0\nRW 8 ZERO\nRDONLY '
        '1 FLAT "/abs.vmdk" 0\nddb.x = "RW 1"\n'
    )
    (tmp_path / "own.vmdk").write_text(text)
    (tmp_path / "sparse.vmdk").write_bytes(b"KDMV\x01" + b"\xff" * 100)

    def files(name: str, kind: str) -> list[str]:
        return list(files_of(Image(DISK, str(tmp_path / name), kind, "")))

    assert files("own.vmdk", "VMDK") == [
        str(tmp_path / "own.vmdk"),
        str(tmp_path / "own-flat.vmdk"),
        "/abs.vmdk",
    ]
    assert files("sparse.vmdk", "VMDK") == [str(tmp_path / "sparse.vmdk")]
    assert files("missing.vmdk", "VMDK") == [str(tmp_path / "missing.vmdk")]
    assert files("x.vdi", "VDI") == [str(tmp_path / "x.vdi")]
    assert list(files_of(Image(DISK, "server|target", "iSCSI", ""))) == []
