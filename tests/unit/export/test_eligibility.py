"""Which VMs the engine takes, and in what words it refuses the others."""

from dataclasses import replace
from pathlib import Path

import pytest

from shared.export import eligibility
from shared.export.eligibility import SourceDisk, check_eligibility, open_disk
from shared.host.clock import SystemClock
from shared.host.errors import DiskImageError
from shared.ova.ovf import Attachment
from shared.virtualbox.settings import SettingsError, parse_machine
from shared.virtualbox.storage import AttachedDisk
from tests.support.disk_files import ZERO, Vdi, pattern
from tests.unit.export.conftest import FakeVirtualBox

BLOCK = 65536


def chain_of_three() -> list[Vdi]:
    base = Vdi(64 * BLOCK, {1: pattern(1, BLOCK)})
    middle = base.child({2: pattern(2, BLOCK)})
    return [middle.child({1: ZERO}), middle, base]


def test_the_disks_of_an_eligible_vm(virtualbox: FakeVirtualBox) -> None:
    chain = chain_of_three()
    virtualbox.add_disk(*chain)
    virtualbox.add_disk(Vdi(64 * BLOCK, kind=1))
    found = check_eligibility(virtualbox.machine, SystemClock())
    assert found.reason == ""
    assert [disk.attachment for disk in found.disks] == [
        Attachment("SATA", 0, 0),
        Attachment("SATA", 2, 0),
    ]
    assert found.disks[0].medium == str(chain[0].identifier)
    assert [path.stem for path in found.disks[0].files] == [
        str(image.identifier) for image in chain
    ]


def test_a_vm_without_disks_is_eligible(virtualbox: FakeVirtualBox) -> None:
    assert check_eligibility(virtualbox.machine, SystemClock()) == eligibility.Eligibility((), "")


def test_another_format_is_named(virtualbox: FakeVirtualBox) -> None:
    virtualbox.add_disk(Vdi(64 * BLOCK))
    machine = virtualbox.machine
    image = replace(machine.chains[0][0], format="VMDK")
    found = check_eligibility(replace(machine, chains=((image,),)), SystemClock())
    assert found.disks == ()
    assert found.reason.startswith(f"{image.location}: its format is VMDK, not VDI (")


def test_a_damaged_image_is_named(virtualbox: FakeVirtualBox) -> None:
    image = Vdi(64 * BLOCK, {1: pattern(1, BLOCK)})
    virtualbox.add_disk(image)
    path = virtualbox.folder / f"{image.identifier}.vdi"
    path.write_bytes(path.read_bytes()[:-1])
    assert str(path) in check_eligibility(virtualbox.machine, SystemClock()).reason


def test_an_encrypted_disk_is_refused(virtualbox: FakeVirtualBox) -> None:
    virtualbox.add_disk(Vdi(64 * BLOCK))
    machine = virtualbox.machine
    settings = Path(machine.settings_file)
    settings.write_text(
        settings.read_text().replace(
            "<Hardware>",
            '<MediaRegistry><Property name="CRYPT/KeyStore"/></MediaRegistry><Hardware>',
        )
    )
    assert "it has an encrypted disk" in check_eligibility(machine, SystemClock()).reason


def test_settings_that_changed_since_the_inventory_are_refused(virtualbox: FakeVirtualBox) -> None:
    virtualbox.add_disk(Vdi(64 * BLOCK))
    machine = virtualbox.machine
    virtualbox.add_disk(Vdi(64 * BLOCK))
    assert virtualbox.machine != machine
    assert "changed a moment ago" in check_eligibility(machine, SystemClock()).reason


@pytest.mark.parametrize(("text", "reason"), [(None, "is not there"), ("<VirtualBox>", "damaged")])
def test_unreadable_settings_are_refused(
    virtualbox: FakeVirtualBox, text: str | None, reason: str
) -> None:
    machine = virtualbox.machine
    Path(machine.settings_file).unlink()
    if text:
        Path(machine.settings_file).write_text(text)
    assert reason in check_eligibility(machine, SystemClock()).reason


def test_an_inaccessible_vm_is_refused_with_its_reason(virtualbox: FakeVirtualBox) -> None:
    assert (
        check_eligibility(
            replace(virtualbox.machine, reason="its disk is gone"), SystemClock()
        ).reason
        == "its disk is gone"
    )


def source(folder: Path, image: Vdi) -> SourceDisk:
    return SourceDisk(
        Attachment("SATA", 0, 0), str(image.identifier), (image.write(folder / "a.vdi"),)
    )


def test_a_file_that_is_not_the_disk_that_virtualbox_knows_is_refused(tmp_path: Path) -> None:
    disk = source(tmp_path, Vdi(64 * BLOCK))
    open_disk(disk).close()
    Vdi(64 * BLOCK).write(disk.files[0])
    with pytest.raises(DiskImageError, match="VirtualBox knows it as"):
        open_disk(disk)


def test_a_disk_too_small_to_prove_its_lock_is_refused(tmp_path: Path) -> None:
    open_disk(source(tmp_path, Vdi(32 * BLOCK))).close()
    with pytest.raises(DiskImageError, match="less than 2 MiB"):
        open_disk(source(tmp_path, Vdi(32 * BLOCK - 512)))


def test_a_disk_with_more_data_than_a_vmdk_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = source(tmp_path, Vdi(64 * BLOCK, {number: pattern(1, BLOCK) for number in range(50)}))
    monkeypatch.setattr(eligibility, "LARGEST_BYTES", 52 * BLOCK)
    open_disk(disk).close()
    monkeypatch.setattr(eligibility, "LARGEST_BYTES", 50 * BLOCK)
    with pytest.raises(DiskImageError, match="2 TiB"):
        open_disk(disk)


def test_attachments_are_those_of_the_vm_as_it_is_now_not_of_its_snapshots() -> None:
    controllers = (
        "<Hardware><StorageControllers><StorageController "
        'name="{name}"><AttachedDevice type="{kind}" port="1" device="2">{image}'
    )
    controllers += "</AttachedDevice></StorageController></StorageControllers></Hardware>"
    image = '<Image uuid="{AB}"/>'
    text = '<VirtualBox xmlns="http://www.virtualbox.org/"><Machine uuid="{CD}" name="x"><Snapshot>'
    text += controllers.format(name="old", kind="HardDisk", image=image) + "</Snapshot>"
    text += controllers.format(name="IDE &quot;x&quot;", kind="HardDisk", image=image)
    text += controllers.format(name="dvd", kind="DVD", image=image) + controllers.format(
        name="empty", kind="HardDisk", image=""
    )
    assert parse_machine((text + "</Machine></VirtualBox>").encode()).disks == (
        AttachedDisk("ab", 'IDE "x"', 1, 2),
    )
    with pytest.raises(SettingsError):
        parse_machine(text.encode())


@pytest.mark.parametrize("attribute", [' port="', ' device="', ' name="'])
def test_a_disk_without_a_place_is_not_for_this_engine(
    virtualbox: FakeVirtualBox, attribute: str
) -> None:
    virtualbox.add_disk(Vdi(64 * BLOCK, kind=1))
    machine = virtualbox.machine
    path = Path(machine.settings_file)
    before, controllers, after = path.read_text().partition("<StorageControllers>")
    path.write_text(before + controllers + after.replace(attribute, ' x="'))
    assert "is attached" in check_eligibility(machine, SystemClock()).reason
