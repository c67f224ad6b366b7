"""What cannot be exported unattended is told before anything is started."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.virtualbox.export_checks import (
    LONGEST_NAME_BYTES,
    has_long_name,
    refuse_long_name,
    refuse_unexportable,
)
from shared.virtualbox.export_errors import ExportError
from shared.virtualbox.inventory import Machine
from shared.virtualbox.storage import Image, files_of
from tests.unit.virtualbox.fakes import CHILD, DISK, A, B, Host, image

KEYS = '<Property name="CRYPT/KeyId" value="id1"/><Property name="CRYPT/KeyStore" value="U0NO"/>'


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def add(host: Host, *, keys: str = "", name: str = "web01") -> Machine:
    """A machine with a differencing image on a base; `keys` are properties of the base."""
    for file in ("base.vdi", "child.vdi"):
        (host.folder / file).touch()
    base = image(
        DISK, str(host.folder / "base.vdi"), keys, image(CHILD, str(host.folder / "child.vdi"))
    )
    host.add(A, name, attached=CHILD, images=base)
    return host.take()[A]


def test_a_whole_machine_is_let_through(host: Host) -> None:
    refuse_unexportable(add(host, keys='<Property name="AllocationBlockSize" value="1048576"/>'))


def test_an_encrypted_disk_anywhere_in_the_chain(host: Host) -> None:
    machine = add(host, keys=KEYS)
    with pytest.raises(ExportError, match=r"its disk .*/base\.vdi is encrypted") as caught:
        refuse_unexportable(machine)
    assert "encryptmedium" in caught.value.hint


def test_the_encrypted_base_of_a_linked_clone_that_another_machine_names(host: Host) -> None:
    add(host, keys=KEYS)
    host.add(B, "clone", attached=CHILD)
    with pytest.raises(ExportError, match="encrypted"):
        refuse_unexportable(host.take()[B])


@pytest.mark.parametrize("file", ["base.vdi", "child.vdi"])
def test_a_missing_disk_is_named(host: Host, file: str) -> None:
    machine = add(host)
    (host.folder / file).unlink()
    with pytest.raises(ExportError, match=rf"{file} cannot be used: No such file"):
        refuse_unexportable(machine)


@pytest.mark.parametrize("thing", [os.mkdir, os.mkfifo])
def test_what_is_no_file_in_the_place_of_a_disk_is_named(
    host: Host, thing: Callable[[Path], None]
) -> None:
    machine = add(host)
    (host.folder / "base.vdi").unlink()
    thing(host.folder / "base.vdi")
    with pytest.raises(ExportError, match=r"base\.vdi cannot be used: neither a file nor a disk"):
        refuse_unexportable(machine)


@pytest.mark.timeout(30)
def test_nobody_waits_for_a_pipe_in_the_place_of_a_vmdk(host: Host) -> None:
    os.mkfifo(host.folder / "base.vmdk")
    pipe = Image(DISK, str(host.folder / "base.vmdk"), "VMDK", "")
    assert list(files_of(pipe)) == [pipe.location]


def test_a_disk_that_this_user_may_not_read_is_named(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = add(host)
    monkeypatch.setattr(
        os, "access", lambda path, _mode: not str(path).endswith("base.vdi")
    )  # root may read whatever its mode
    with pytest.raises(ExportError, match="cannot be read by this user"):
        refuse_unexportable(machine)


def test_names_are_measured_in_bytes(host: Host) -> None:
    assert not has_long_name("n" * LONGEST_NAME_BYTES)
    assert has_long_name("n" * (LONGEST_NAME_BYTES + 1))
    assert has_long_name("ü" * 44)
    with pytest.raises(ExportError, match="its name has 88 bytes"):
        refuse_long_name(add(host, name="ü" * 44))
    refuse_long_name(
        Machine(A, "n" * 200, "/x.vbox")
    )  # without disks there is nothing that is called after it
