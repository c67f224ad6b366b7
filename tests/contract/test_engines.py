"""Both export engines on the same real VMs.

Each copy is imported by the real VirtualBox and must be the VM that was exported.

An independent reader, qemu-img, looks at the disks of the parallel engine, too.
"""

import re
from pathlib import Path

import pytest

from shared.export.delta import DeltaPlan
from shared.ova.check import check_ova
from shared.ova.compression import zlib_codec
from tests.contract.engine_vms import KINDS, MIB, Bench, Build, change, qemu, same, texts, unpack
from tests.contract.exporting import check_manifest, members
from tests.support.packages import require
from tests.support.virtualbox import RealVm
from tests.support.waiting import ended

pytestmark = pytest.mark.virtualbox


@pytest.fixture(scope="module")
def qemu_img() -> None:
    """An independent reader of disk images."""
    require("qemu-img", "qemu-utils")


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def vm(request: pytest.FixtureRequest, bench: Bench) -> str:
    """The UUID of a VM of each kind."""
    build: Build = request.param
    return build(bench)


@pytest.fixture
def copies(bench: Bench, vm: str) -> dict[str, Path]:
    """A copy of the VM by each engine."""
    folder = bench.host.folder / "copies"
    folder.mkdir(exist_ok=True)
    made = {}
    for name in ("vboxmanage", "parallel"):
        made[name] = folder / f"{vm}-{name}.ova"
        if not made[name].exists():
            ended(bench.exporter(name).start(bench.machine(vm), made[name])).result()
    return made


def test_the_parallel_engine_takes_it(bench: Bench, vm: str) -> None:
    assert bench.parallel().refusal(bench.machine(vm)) == ""


def test_both_copies_restore_to_the_vm_that_was_exported(
    bench: Bench, vm: str, copies: dict[str, Path]
) -> None:
    expected = bench.digests(vm)
    settings = {}
    check_manifest(copies["parallel"])
    for name, copy in copies.items():
        restored = bench.restore(copy, f"restored by {name}")
        assert bench.digests(restored) == expected
        settings[name] = bench.settings(restored)
        bench.host.run("unregistervm", restored, "--delete")
    assert settings["parallel"] == settings["vboxmanage"]
    assert len(settings["parallel"]) > 50


def test_both_copies_have_the_same_members(copies: dict[str, Path]) -> None:
    found = {name: members(copy) for name, copy in copies.items()}
    assert [name.rpartition(".")[2] for name in found["parallel"]] == [
        name.rpartition(".")[2] for name in found["vboxmanage"]
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in found["parallel"])


def test_an_independent_reader_finds_the_same_disks(
    qemu_img: None, bench: Bench, vm: str, copies: dict[str, Path], tmp_path: Path
) -> None:
    """What VirtualBox itself reads from each disk is found in one file of the copy, whatever the
    order of the files is.
    """
    disks = unpack(copies["parallel"], tmp_path)
    for disk in disks:
        qemu("check", disk)
    for number, leaf in enumerate(bench.leaves(vm).values()):
        content = bench.raw(leaf, bench.host.folder / f"{tmp_path.name}-{number}.raw")
        disks.remove(next(disk for disk in disks if same(disk, content)))
        content.unlink()
    assert disks == []


def test_a_restored_vm_boots(bench: Bench) -> None:
    """The guest goes on counting where it was, on the disk that the parallel engine wrote."""
    vm = bench.host.make_vm("boots")
    vm.start()
    vm.stop()
    counted = vm.counter()
    assert counted > 0
    copy = bench.host.folder / "boots.ova"
    ended(bench.parallel().start(bench.machine(vm.uuid), copy)).result()
    restored = RealVm(bench.host, bench.restore(copy, "boots again"), "boots again")
    assert restored.counter() == counted
    serial = bench.host.vms / f"{restored.uuid}.serial"
    bench.host.run("modifyvm", restored.uuid, "--uart-mode1", "file", str(serial))
    restored.start()
    restored.stop()
    assert restored.counter() > counted


def test_a_clone_is_exported_under_the_name_of_its_vm(bench: Bench) -> None:
    """What a live backup exports: a linked clone of a snapshot, while the VM itself runs on."""
    vm = bench.host.make_vm("live", mib=16, random_mib=8)
    vm.start()
    bench.host.run("snapshot", vm.uuid, "take", "frozen", "--live")
    words = [
        "--snapshot=frozen",
        "--mode=machine",
        "--options=Link",
        "--name=live-clone",
        f"--basefolder={bench.host.vms}",
        "--register",
    ]
    bench.host.run("clonevm", vm.uuid, *words)
    clone = next(
        listed.uuid for listed in bench.vboxmanage.list_vms() if listed.name == "live-clone"
    )
    copy = bench.host.folder / "live.ova"
    expected = bench.digests(clone)
    ended(bench.parallel().start(bench.machine(clone), copy, vm_name="live & well")).result()
    assert vm.info("VMState") == "running"
    assert members(copy) == ["live_well.ovf", "live_well-disk001.vmdk", "live_well.mf"]
    bench.host.run("unregistervm", clone, "--delete")
    bench.host.run("snapshot", vm.uuid, "delete", "frozen")
    vm.stop()
    restored = bench.restore(copy, "live restored")
    assert list(bench.digests(restored).values()) == list(expected.values())


@pytest.mark.parametrize(
    "name", ["web: 01", "web (copy)", 'the "old" web', "a/b", "x" * 60 + "ü" * 10]
)
def test_names_with_which_virtualbox_s_own_copy_cannot_be_restored(bench: Bench, name: str) -> None:
    """VirtualBox 7.2 exports them with status 0, and refuses to import what it wrote.

    Our copies it imports, and checks.

    It leaves files with a colon or a parenthesis out of its manifest, and chokes on an .nvram so
    named; a name with quotes goes into its VMDK as it is, which then cannot be parsed.
    """
    uuid = bench.create(name, "--firmware=efi")
    bench.host.run("modifynvram", uuid, "inituefivarstore")
    bench.disk(uuid, texts(8, 4 * MIB))
    copy = bench.host.folder / f"{uuid}.ova"
    ended(bench.parallel().start(bench.machine(uuid), copy)).result()
    check_manifest(copy)
    restored = bench.restore(copy, f"restored {uuid}")
    assert list(bench.digests(restored).values()) == list(bench.digests(uuid).values())


def test_without_isal_and_on_one_core(bench: Bench) -> None:
    uuid = bench.create("zlib")
    bench.disk(uuid, texts(9, 20 * MIB))
    copy = bench.host.folder / "zlib.ova"
    ended(bench.parallel(zlib_codec(6), cores=1).start(bench.machine(uuid), copy)).result()
    restored = bench.restore(copy, "zlib restored")
    assert list(bench.digests(restored).values()) == list(bench.digests(uuid).values())


def test_a_changed_byte_is_found_by_virtualbox_through_our_manifest(bench: Bench) -> None:
    vm = bench.host.make_vm("tampered")
    copy = bench.host.folder / "tampered.ova"
    ended(bench.parallel().start(bench.machine(vm.uuid), copy)).result()
    data = bytearray(copy.read_bytes())
    end_of_disk = data.rindex(b"KDMV") + 600  # behind the footer: nothing but the digest covers it
    data[end_of_disk] ^= 1
    copy.write_bytes(data)
    done = bench.host.run(
        "import",
        copy,
        "--vsys=0",
        "--vmname=tampered2",
        f"--basefolder={bench.host.vms}",
        check=False,
    )
    assert done.returncode == 1
    assert "Digest mismatch" in done.stderr


def test_a_copy_that_takes_over_bytes_of_the_one_before_and_is_laid_out_for_shared_blocks(
    qemu_img: None, bench: Bench, tmp_path: Path
) -> None:
    """With what fills it up to whole blocks of a file system it is still a disk to VirtualBox and
    to qemu.
    """
    uuid = bench.create("delta")
    disk = bench.disk(uuid, texts(10, 80 * MIB))
    folder = bench.host.folder / "deltas"
    folder.mkdir()
    plan = DeltaPlan(folder / "1.index", aligned=True)
    ended(bench.parallel(plan=plan).start(bench.machine(uuid), folder / "1.ova")).result()
    change(disk, 1)
    again = DeltaPlan(folder / "2.index", folder / "1.ova", folder / "1.index", aligned=True)
    traffic = ended(
        bench.parallel(plan=again).start(bench.machine(uuid), folder / "2.ova")
    ).result()
    assert traffic.copied > 0.9 * (folder / "2.ova").stat().st_size
    assert check_ova(folder, "2.ova").unlisted == ()
    (unpacked,) = unpack(folder / "2.ova", tmp_path)
    qemu("check", unpacked)
    qemu("compare", unpacked, disk)
    restored = bench.restore(folder / "2.ova", "delta restored")
    assert list(bench.digests(restored).values()) == list(bench.digests(uuid).values())
