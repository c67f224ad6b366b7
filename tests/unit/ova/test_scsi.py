"""Descriptions with two SCSI controllers, which VirtualBox writes and does not import."""

import re

import pytest

from shared.ova.scsi import on_one_controller


def item(number: int, kind: int = 6) -> bytes:
    return (
        b"      <Item>\n        <rasd:InstanceID>%d</rasd:InstanceID>\n"
        b"        <rasd:ResourceType>%d</rasd:ResourceType>\n      </Item>\n" % (number, kind)
    )


def disk(parent: int, address: int) -> bytes:
    return (
        b"      <StorageItem>\n        <sasd:AddressOnParent>%d</sasd:AddressOnParent>\n"
        b"        <sasd:Caption>disk</sasd:Caption>\n        <sasd:Parent>%d</sasd:Parent>\n"
        b"      </StorageItem>\n" % (address, parent)
    )


def places(ovf: bytes) -> list[tuple[bytes, bytes]]:
    """Parent and place of each disk."""
    disks = ovf.split(b"<StorageItem>")[1:]
    return [
        (
            re.findall(rb"Parent>(\d+)</sasd:Parent>", one)[-1],
            re.findall(rb"OnParent>(\d+)<", one)[0],
        )
        for one in disks
    ]


@pytest.mark.parametrize(
    "ovf",
    [
        b"",
        b"<Envelope/>",
        item(3) + disk(3, 0) + disk(3, 0),
        item(3, 20) + item(4, 5) + item(5) + disk(3, 0) + disk(4, 1) + disk(5, 0),
    ],
)
def test_with_one_scsi_controller_nothing_is_changed(ovf: bytes) -> None:
    assert on_one_controller(ovf) == ovf


def test_all_scsi_disks_hang_on_the_first_one_each_at_its_place_and_others_stay() -> None:
    controllers = item(2, 20) + item(3) + item(11)
    ovf = controllers + disk(11, 0) + disk(2, 7) + disk(11, 0) + b"</Envelope>\n"
    mended = on_one_controller(ovf)
    assert places(mended) == [(b"3", b"0"), (b"2", b"7"), (b"3", b"1")]
    assert mended.startswith(controllers)
    assert mended.rstrip().endswith(b"</Envelope>")


@pytest.mark.parametrize("count", [1, 9, 10, 11, 100])
def test_it_is_as_long_as_before_and_stays_so(count: int) -> None:
    ovf = item(100) + item(3) + disk(3, 0) * count
    mended = on_one_controller(ovf)
    assert len(mended) == len(ovf)
    assert on_one_controller(mended) == mended
    assert places(mended) == [(b"100", b"%d" % number) for number in range(count)]
