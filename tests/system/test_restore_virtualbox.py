"""From a lost host back to a running guest, on real VirtualBox."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared.serving import places
from shared.virtualbox.importing import folder_name
from tests.support.copies import manifest, tar_file
from tests.support.fleet import Fleet, Member
from tests.support.packages import require
from tests.support.served import shared_place
from tests.support.virtualbox import RealHost, RealVm, stopped
from tests.support.waiting import wait_for

pytestmark = pytest.mark.virtualbox


def names(member: Member) -> list[str]:
    """The VMs that VirtualBox lists on a host."""
    return re.findall(r'^"(.*)" \{', member.host.run("list", "vms").stdout, re.MULTILINE)


def tree(folder: Path) -> list[str]:
    return (
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        if folder.exists()
        else []
    )


def disk_in(place: Path) -> bool:
    """Whether a disk has been made there."""
    return any(name.endswith(".vdi") for name in tree(place))


def damage(path: Path) -> None:
    path.chmod(0o640)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def listen(vm: RealVm) -> None:
    """An import disconnects a serial line that writes into a file of the host.

    The guest's beats are heard on it.
    """
    vm.host.run("modifyvm", vm.uuid, "--uart-mode1", "file", vm.serial)


def test_a_guest_whose_host_is_lost_counts_on_from_the_same_number_on_another_host(
    fleet: Fleet,
) -> None:
    first, second = fleet.members.values()
    vm = first.host.make_vm("web: 01/ü")
    vm.start()
    wait_for(lambda: vm.beats() >= 4, "the guest to count")
    vm.stop()
    counted = vm.counter()
    assert counted >= 4
    first.worker("run")
    assert fleet.states() == {"web: 01/ü": "CLEAN"}
    first.host.lose_power()
    shutil.rmtree(first.host.folder)

    folder = second.host.vms / "restored"
    ran = second.admin("restore", "web: 01/ü", "--to", str(folder), "--json").json
    assert ran["name"] == "web: 01/ü"
    assert ran["uuid"] != vm.uuid
    restored = RealVm(second.host, ran["uuid"], ran["name"])
    assert restored.counter() == counted
    listen(restored)
    restored.start()
    wait_for(lambda: restored.beats() >= 2, "the restored guest to count")
    restored.stop()
    assert restored.counter() >= counted + 2

    second.admin("forget", "web: 01/ü")
    second.worker("run")
    record = fleet.record("web: 01/ü")
    assert (record.node, record.status, record.uuid) == (second.name, "CLEAN", ran["uuid"])
    assert len(fleet.copies("web: 01/ü")) == 1, (
        "its own; those of the VM that is gone stay in the directory of that one"
    )


def test_a_restore_overwrites_nothing(fleet: Fleet) -> None:
    first, _ = fleet.members.values()
    vm = first.host.make_vm("web01")
    first.worker("run")
    before, files = names(first), tree(first.host.vms)
    assert (
        "has a VM 'web01' already"
        in first.admin("restore", "web01", "--to", str(first.host.vms / "x"), expect=2).stderr
    )
    taken = first.host.vms / folder_name("web:02")
    taken.mkdir()
    (taken / "mine").write_text("mine")
    ran = first.admin("restore", "web01", "--as", "web:02", "--to", str(first.host.vms), expect=2)
    assert "is there already" in ran.stderr
    assert "is damaged" not in ran.stderr
    assert names(first) == before
    assert tree(first.host.vms) == sorted([*files, "web_02", "web_02/mine"])
    assert vm.counter() == 0


def test_a_vm_in_groups_is_restored_and_rehearsed_like_any_other(fleet: Fleet) -> None:
    """VirtualBox would import it into the folder of its group."""
    first, second = fleet.members.values()
    vm = first.host.make_vm("web01")
    first.host.run("modifyvm", vm.uuid, "--groups=/office/a,/web")
    first.worker("run")
    place = second.host.vms / "here"
    second.admin("rehearse", "web01", "--to", str(place))
    assert (names(second), tree(place)) == ([], [])
    ran = second.admin("restore", "web01", "--to", str(place), "--json").json
    restored = RealVm(second.host, ran["uuid"], "web01")
    assert restored.settings == place / "web01" / "web01.vbox"
    assert restored.info("groups") == "/office/a,/web"
    assert tree(place) == ["web01", "web01/web01-disk001.vdi", "web01/web01.vbox"]
    assert restored.counter() == 0
    second.host.run("modifyvm", restored.uuid, "--memory=20")


def test_what_a_killed_restore_left_is_removed_by_the_next_tick(fleet: Fleet) -> None:
    first, second = fleet.members.values()
    first.host.make_vm("large", mib=700, random_mib=600)
    first.worker("run")
    place = second.host.vms / "restored"
    running = second.start("vmbackup-admin", "restore", "large", "--to", str(place))
    with stopped(running, lambda: disk_in(place), "the import begins"):
        running.kill()
    running.communicate(timeout=60)
    wait_for(
        lambda: second.worker("database", expect=None).status == 0, "the import to be gone", 120
    )
    assert (names(second), tree(place), place.exists()) == ([], [], False)
    assert second.host.run("list", "hdds").stdout == ""


def test_a_second_vm_beside_the_original_and_one_of_an_archived_copy(fleet: Fleet) -> None:
    first, second = fleet.members.values()
    vm = first.host.make_vm("web01")
    first.host.run("modifyvm", vm.uuid, "--nic1=nat")
    first.worker("run")
    folder = str(first.host.vms / "here")
    first.admin("restore", "web01", "--as", '-odd "name"', "--to", folder, "--new-macs")
    assert '-odd "name"' in names(first)
    first.admin("archive", "web01")
    ran = second.admin("restore", "web01", "--to", str(second.host.vms / "here"), "--json").json
    kept = RealVm(second.host, ran["uuid"], "web01").info("macaddress1")
    fresh = next(uuid for uuid in uuids(first) if uuid != vm.uuid)
    assert kept == vm.info("macaddress1")
    assert RealVm(first.host, fresh, "x").info("macaddress1") not in ("", kept)


def uuids(member: Member) -> list[str]:
    return re.findall(r"\{(.*)\}$", member.host.run("list", "vms").stdout, re.MULTILINE)


def test_a_damaged_copy_is_not_restored_is_found_by_verify_and_its_vm_backed_up_again(
    fleet: Fleet,
) -> None:
    first, second = fleet.members.values()
    vm = first.host.make_vm("web01")
    first.worker("run")
    vm.start()
    vm.stop()
    first.worker("run")
    old, new = fleet.copies("web01")
    damage(new.directory / f"{new.stamp}.ova")
    place = second.host.vms / "restored"
    ran = second.admin("restore", "web01", "--to", str(place), expect=1)
    assert "damaged" in ran.stderr
    assert (names(second), tree(place)) == ([], [])

    ran = second.admin("verify", "web01", "--json", expect=3)
    assert {copy["stamp"]: copy["good"] for copy in ran.json["copies"]} == {
        old.stamp: True,
        new.stamp: False,
    }
    (row,) = second.admin("status", "--json").json["vms"]
    assert (row["status"], row["damaged"], row["last_copy"]["stamp"]) == (
        "BACKUP_NECESSARY",
        [new.stamp],
        old.stamp,
    )
    assert "1 damaged copy" in second.admin("status").stdout
    assert "digest" in second.admin("copies", "web01").stdout

    second.admin("restore", "web01", "--to", str(place))
    assert names(second) == ["web01"]
    first.worker("run")
    assert fleet.states()["web01"] == "CLEAN"


@pytest.mark.usefixtures("hang_up_heeded")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_restore_leaves_nothing(fleet: Fleet, number: signal.Signals) -> None:
    first, second = fleet.members.values()
    first.host.make_vm("large", mib=700, random_mib=600)
    first.worker("run")
    place = second.host.vms / "restored"
    running = second.start("vmbackup-admin", "restore", "large", "--to", str(place))
    with stopped(running, lambda: disk_in(place), "the import begins"):
        running.send_signal(number)
    output = running.communicate(timeout=60)[0]
    assert running.returncode == {signal.SIGINT: 130, signal.SIGHUP: 143}[number], output
    assert (names(second), tree(place)) == ([], []), output
    assert not place.exists()
    assert second.host.run("list", "hdds").stdout == ""


def hostile(member: Member, fleet: Fleet, disk: str) -> None:
    """Puts a whole copy with such a disk name in the place of the VM's copy, with the right
    digests.
    """
    import hashlib
    import tarfile

    (copy,) = fleet.copies("web01")
    path = copy.directory / f"{copy.stamp}.ova"
    with tarfile.open(path) as archive:
        found = [(entry.name, archive.extractfile(entry).read()) for entry in archive]  # type: ignore[union-attr]
    old = next(name for name, _ in found if name.endswith(".vmdk"))
    parts = [
        (
            disk if name == old else name,
            data.replace(old.encode(), disk.encode()) if name.endswith(".ovf") else data,
        )
        for name, data in found[:-1]
    ]
    data = tar_file([*parts, (found[-1][0], manifest(parts))]) + bytes(1024)
    path.chmod(0o640)
    path.write_bytes(data)
    side = path.with_suffix(".json")
    document = json.loads(side.read_text())
    side.write_text(
        json.dumps({**document, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    )


@pytest.mark.parametrize("disk", ["../../x-disk001.vmdk", "/var/tmp/vmbackup-x-disk001.vmdk", ".."])
def test_a_member_that_virtualbox_would_write_elsewhere_is_refused(fleet: Fleet, disk: str) -> None:
    first, second = fleet.members.values()
    first.host.make_vm("web01")
    first.worker("run")
    hostile(first, fleet, disk)
    before = tree(second.host.vms)
    ran = second.admin("restore", "web01", "--to", str(second.host.vms / "a"), expect=1)
    assert "outside" in ran.stderr
    assert tree(second.host.vms) == before


@pytest.fixture
def served(fleet: Fleet) -> Iterator[Path]:
    """A directory in which the VirtualBox of the second host sees what is mounted later."""
    require("fusermount3", "fuse3")
    _, second = fleet.members.values()
    with shared_place(second.host) as place:
        yield place


def mounted(place: Path) -> list[str]:
    """The copies that are mounted below a directory."""
    return [each.place for each in places.mounted() if each.place.startswith(f"{place}/")]


def test_a_rehearsal_boots_the_copy_without_its_network_and_removes_it(
    fleet: Fleet, served: Path
) -> None:
    first, second = fleet.members.values()
    vm = first.host.make_vm("web01")
    first.host.run("modifyvm", vm.uuid, "--nic1=nat", "--cableconnected1=on")
    first.worker("run")
    place = served / "trial"
    running = second.start(
        "vmbackup-admin",
        "rehearse",
        "web01",
        "--boot",
        "--wait",
        "15",
        "--to",
        str(place),
        "--set",
        "memory=24",
        "--json",
    )
    wait_until_it_runs(running, second)
    seen = shown(second)
    assert 'cableconnected1="off"' in seen
    assert "memory=24\n" in seen
    assert len(mounted(place)) == 1
    assert "Snapshots" in seen, "what the guest writes goes into a snapshot"
    second.worker("vmfind")
    output = running.communicate(timeout=60)[0]
    assert running.returncode == 0, output
    result = json.loads(output)
    assert (result["good"], result["booted"], result["recorded"]) == (True, True, True)
    assert "it ran for 15 s, wrote to its disks" in result["observed"]
    assert result["imported_because"] == ""
    assert (names(second), mounted(place), tree(place)) == ([], [], [])
    assert list(fleet.states()) == ["web01"], "vmfind does not take a rehearsal for somebody's VM"
    (copy,) = second.admin("copies", "web01", "--json").json["copies"]
    assert (copy["rehearsed"]["result"], copy["rehearsed"]["node"]) == ("good", second.name)
    picture = fleet.nas / "web01" / f"{copy['stamp']}.png"
    assert copy["screenshot"] == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG"), "what VirtualBox writes is kept"
    assert str(picture) in second.admin("show", "web01").stdout


def test_a_copy_is_rehearsed_by_schedule_on_a_host_that_has_the_setting(
    fleet: Fleet, served: Path
) -> None:
    first, second = fleet.members.values()
    vm = first.host.make_vm("web01")
    first.host.run("modifyvm", vm.uuid, "--nic1=nat", "--cableconnected1=on")
    first.worker("run")
    second.configure("backup", rehearse_days=30, rehearse_seconds=4)
    second.configure("host", state_directory=str(served / "state"))
    assert second.worker("verify", "--dry-run").stdout.startswith("rehearse web01 ")
    first.worker("verify")
    assert "imports" not in second.worker("verify").stderr, "it ran from the copy"
    assert mounted(served) == []
    (copy,) = second.admin("copies", "web01", "--json").json["copies"]
    told = copy["rehearsed"]
    assert (told["result"], told["node"], told["booted"]) == ("good", second.name, True)
    assert Path(copy["screenshot"]).read_bytes().startswith(b"\x89PNG")
    assert (names(second), second.worker("verify", "--dry-run").stdout) == ([], "")
    assert vm.counter() == 0, "nobody touched the original"


def wait_until_it_runs(rehearsal: "subprocess.Popen[str]", member: Member) -> None:
    def runs() -> bool:
        if rehearsal.poll() is not None:
            pytest.fail(f"the rehearsal ended before it was seen: {rehearsal.communicate()[0]}")
        return 'VMState="running"' in shown(member)

    wait_for(runs, "the rehearsal to start", 60)


def shown(member: Member) -> str:
    listed = member.host.run("list", "vms").stdout
    uuid = re.search(r'"vmbackup-rehearsal-\S+" \{(.*)\}', listed)
    return (
        member.host.run("showvminfo", uuid[1], "--machinereadable", check=False).stdout
        if uuid
        else ""
    )


def test_a_guest_with_guest_additions_must_make_them_answer(fleet: Fleet) -> None:
    first, second = fleet.members.values()
    vm = first.host.make_vm("web01")
    first.host.run("guestproperty", "set", vm.uuid, "/VirtualBox/GuestAdd/Version", "7.2.22")
    first.host.run(
        "guestproperty", "set", vm.uuid, "/VirtualBox/GuestInfo/OS/Product", "of an earlier run"
    )
    first.worker("run")
    words = [
        "rehearse",
        "web01",
        "--boot",
        "--wait",
        "6",
        "--to",
        str(second.host.vms / "trial"),
        "--json",
    ]
    ran = second.admin(*words, expect=3).json
    assert "did not answer within 6 s" in ran["result"]
    assert ran["imported_because"], "VirtualBox does not see what is mounted there"

    running = second.start("vmbackup-admin", *words[:4], "60", *words[5:])
    wait_until_it_runs(running, second)
    uuid = re.search(r'^UUID="(.*)"', shown(second), re.MULTILINE)
    assert uuid
    second.host.run("guestproperty", "set", uuid[1], "/VirtualBox/GuestInfo/OS/Product", "Linux")
    output = running.communicate(timeout=60)[0]
    assert running.returncode == 0, output
    assert "Linux" in json.loads(output)["observed"]
    assert names(second) == []


@pytest.mark.usefixtures("hang_up_heeded")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_rehearsal_that_is_stopped_is_removed_by_itself_or_by_the_next_tick(
    fleet: Fleet, served: Path, number: signal.Signals
) -> None:
    first, second = fleet.members.values()
    first.host.make_vm("web01")
    first.worker("run")
    place = served / "trial"
    words = ["rehearse", "web01", "--boot", "--wait", "100", "--to", str(place)]
    running = second.start("vmbackup-admin", *words)
    wait_until_it_runs(running, second)
    os.kill(running.pid, number)
    running.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert (len(names(second)), len(mounted(place))) == (1, 1)
        second.worker("database")
    assert (names(second), mounted(place), tree(place)) == ([], [], [])
    wait_for(lambda: not rehearsing(second), "the guest's process to be gone")


def rehearsing(member: Member) -> list[psutil.Process]:
    """The processes of a host in which a rehearsal runs."""
    found = []
    for process in member.host.processes():
        with contextlib.suppress(psutil.Error):
            if any("vmbackup-rehearsal" in word for word in process.cmdline()):
                found.append(process)
    return found


def test_names_of_folders_are_those_that_virtualbox_makes(virtualbox_host: RealHost) -> None:
    vm = virtualbox_host.make_vm("tiny")
    source = virtualbox_host.folder / "tiny.ova"
    virtualbox_host.run("export", vm.uuid, "--ovf20", "--manifest", f"--output={source}")
    for name in (
        "-dash",
        "..",
        ".hid",
        "new\nline",
        " sp ",
        "ä:b/c",
        "x.",
        "日本",
        'q"uo',
        "tab\t",
        "e\u0301",
        "~t#$%&'*+;<=>?@[]^`{|}!,",
        "\U0001f600",
    ):
        base = virtualbox_host.folder / "names"
        virtualbox_host.run(
            "import", source, "--vsys", "0", f"--vmname={name}", f"--basefolder={base}"
        )
        assert (base / folder_name(name) / f"{folder_name(name)}.vbox").exists(), (
            name,
            os.listdir(base),
        )


def reaches_out(vm: RealVm, folder: Path) -> None:
    """Gives a VM all that lets it write or listen on its host."""
    host, uuid = vm.host, vm.uuid
    for words in (
        ["--nic1=nat", "--natpf1=ssh,tcp,,42022,,22"],
        ["--nic2=generic", "--nic-generic-drv2=UDPTunnel", "--nic-property2=sport=42023"],
        ["--nic-property2=dest=127.0.0.1", "--nic-property2=dport=42024"],
        ["--nictrace1=on", "--nictracefile1", f"{folder}/trace.pcap"],
        ["--uart2", "0x2f8", "3", "--uart-mode2", "server", f"{folder}/pipe"],
        ["--uart3", "0x3e8", "4", "--uart-mode3", "tcpserver", "42025"],
        ["--uart4", "0x2e8", "3", "--uart-mode4", "file", f"{folder}/serial4"],
        ["--recording=on", "--recording-file", f"{folder}/recording.webm"],
        ["--guest-debug-provider=native", "--guest-debug-io-provider=tcp"],
        ["--guest-debug-address=0.0.0.0", "--guest-debug-port=42026"],
        ["--teleporter=on", "--teleporter-port=42027", "--teleporter-address=0.0.0.0"],
        ["--vrde=on", "--vrde-port=42028", "--usb-ohci=on", "--snapshotfolder", f"{folder}/snaps"],
    ):
        host.run("modifyvm", uuid, *words)
    host.run("sharedfolder", "add", uuid, "--name=all", "--hostpath", folder)
    host.run(*("usbfilter", "add", "0", "--target", uuid, "--name", "dongle", "--vendorid", "1234"))
    host.run("setextradata", uuid, "VBoxInternal/Devices/pcnet/0/Config/x", "1")


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_rehearsed_vm_meets_nobody_and_leaves_the_original_alone(
    fleet: Fleet, served: Path
) -> None:
    """Watched from outside, on the host of the original, while it runs."""
    first = list(fleet.members.values())[1]
    vm = first.host.make_vm("web01")
    mine = first.host.folder / "mine"
    mine.mkdir()
    for name in ("trace.pcap", "recording-screen0.webm", "serial4"):
        (mine / name).write_bytes(b"of the original")
    reaches_out(vm, mine)
    first.worker("run")
    before, settings = contents(mine), vm.settings.read_bytes()
    place = served / "trial"
    running = first.start(
        *("vmbackup-admin", "rehearse", "web01", "--boot", "--wait", "12", "--to", str(place))
    )
    wait_until_it_runs(running, first)
    process, seen = rehearsing(first)[0], shown(first)
    assert len(mounted(place)) == 1
    for _ in range(6):  # it is not there for much longer
        assert [each.laddr for each in process.net_connections("inet")] == []
        opened = {file.path for file in process.open_files()}
        assert not {path for path in opened if path.startswith((str(mine), str(vm.disk)))}
        assert contents(mine) == before
        assert not (mine / "pipe").exists()
        time.sleep(0.5)
    assert 'cableconnected1="off"' in seen
    assert "USBFilterActive" not in seen
    assert "SharedFolder" not in seen
    output = running.communicate(timeout=60)[0]
    assert running.returncode == 0, output
    assert (names(first), tree(place)) == (["web01"], [])
    assert contents(mine) == before
    assert vm.settings.read_bytes() == settings


def test_restore_needs_the_nas_for_reading_only(fleet: Fleet) -> None:
    first, second = fleet.members.values()
    first.host.make_vm("web01")
    first.worker("run")
    nas = fleet.nas
    subprocess.run(["mount", "--bind", nas, nas], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", nas], check=True)
        ran = second.admin("restore", "web01", "--to", str(second.host.vms / "restored"))
        assert "not in the log" in ran.stderr
    finally:
        subprocess.run(["umount", nas], check=True)
    assert names(second) == ["web01"]
