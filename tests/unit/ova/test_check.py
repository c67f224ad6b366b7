import hashlib
import io
import tarfile
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.host.errors import CopyError, NasError
from shared.ova.check import CheckStoppedError, check_ova, sha256_of
from tests.support import copies as make

DISK = bytes(range(256)) * 64


def check(tmp_path, data):
    (tmp_path / "x.ova").write_bytes(data)
    return check_ova(tmp_path, "x.ova")


@pytest.mark.parametrize("algorithm", ["SHA1", "SHA256"])
@pytest.mark.parametrize("end", [b"", bytes(1024), bytes(10240)])
def test_a_whole_file(tmp_path, algorithm, end):
    data = make.ova(DISK, algorithm=algorithm) + end
    found = check(tmp_path, data)
    assert (found.sha256, found.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert [member.name for member in found.members] == ["x.ovf", "vm-disk001.vmdk", "x.mf"]
    assert found.unlisted == ()
    assert sha256_of(tmp_path, "x.ova") == found.sha256


def test_a_file_written_by_tarfile(tmp_path):
    members = [("x.ovf", make.OVF.format("").encode()), ("ü.nvram", b"n" * 700)]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in [*members, ("x.mf", make.manifest(members))]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert check(tmp_path, buffer.getvalue()).members[1].name == "ü.nvram"


def flipped(data, where, bit=1):
    return data[:where] + bytes([data[where] ^ bit]) + data[where + 1 :]


def damages():
    """The rows of the table of damage that VirtualBox was tried with, and what must be said of
    each.
    """
    whole = make.ova(DISK)
    disk, mf = whole.index(DISK), whole.index(b"SHA256 (x.ovf)")
    yield "bit in vmdk data", flipped(whole, disk + 5000), "digest of 'vm-disk001.vmdk' is wrong"
    yield (
        "bit in vmdk tail",
        flipped(whole, disk + len(DISK) - 3),
        "digest of 'vm-disk001.vmdk' is wrong",
    )
    yield "ovf XML broken", whole.replace(b"<References>", b"<References<"), "ovf is damaged"
    yield "ovf XML changed", whole.replace(b'"file1"', b'"file2"'), "digest of 'x.ovf' is wrong"
    yield (
        "digit in mf",
        flipped(whole, mf + 20),
        "digest of 'x.ovf' is wrong|line 1 of the manifest is damaged",
    )
    yield (
        "mf first line garbled",
        whole.replace(b"SHA256 (x.ovf)", b"SH*256 (x.ovf)"),
        "line 1 of the manifest is damaged",
    )
    yield "mf cut off", whole[: mf - 512], "there is no manifest"
    yield "mf cut off in its header", whole[: mf - 100], "ends inside a tar header"
    yield "mf cut off in its text", whole[: mf + 30], "is cut off"
    yield (
        "last 4 KiB of vmdk cut",
        whole[: disk + len(DISK) - 4096] + whole[disk + len(DISK) :],
        "no tar header|cut off",
    )
    yield "truncated to half", whole[: len(whole) // 2], "cut off: 'vm-disk001.vmdk'"
    yield "padding cut", whole[:-1], "cut off in the padding"
    yield "empty", b"", "no .ovf"
    yield "zeros only", bytes(4096), "no .ovf"
    yield "garbage behind", whole + b"garbage" * 100, "no tar header"
    yield (
        "garbage behind the end",
        whole + bytes(1024) + b"garbage" + bytes(505),
        "other bytes after the end",
    )
    yield "header bit", flipped(whole, disk - 512), "checksum is wrong"


@pytest.mark.parametrize(
    ("what", "data", "reason"), list(damages()), ids=[row[0] for row in damages()]
)
def test_damage_is_found_and_named(tmp_path, what, data, reason):
    with pytest.raises(CopyError, match=reason):
        check(tmp_path, data)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.slow
def test_every_flipped_bit_in_a_header_or_member_is_found(tmp_path, data):
    whole = make.ova(DISK[:3000])
    where = data.draw(st.integers(0, len(whole) - 1))
    damaged = flipped(whole, where, 1 << data.draw(st.integers(0, 7)))
    try:
        found = check(tmp_path, damaged)
    except CopyError:
        return
    # What is left: the padding behind a member, and another spelling of the number in a header's
    # checksum field ("0" or a space before it, a zero byte or a space behind it). It means the same
    # to every reader, and the digest of the whole file tells.
    paddings = [
        range(member.position + member.size, -(-(member.position + member.size) // 512) * 512)
        for member in found.members
    ]
    checksums = [
        range(member.position - 512 + 148, member.position - 512 + 156) for member in found.members
    ]
    assert any(where in harmless for harmless in paddings + checksums)
    assert found.sha256 == hashlib.sha256(damaged).hexdigest()


@pytest.mark.broad
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(make.ova(DISK[:3000])) - 1))
def test_every_cut_is_found(tmp_path, length):
    with pytest.raises(CopyError):
        check(tmp_path, make.ova(DISK[:3000])[:length])


NO_DISKS = make.OVF.format("")


def members(*extra, ovf=NO_DISKS, mf=None):
    found = [("x.ovf", ovf.encode()), *extra]
    return make.tar_file([*found, ("x.mf", make.manifest(found) if mf is None else mf)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (members(ovf=make.OVF.format('<File href="gone.vmdk"/>')), "refers to 'gone.vmdk'"),
        (members(ovf="<Other/>"), "no description of a VM"),
        (members(ovf='<!DOCTYPE a [<!ENTITY b "c">]><Envelope/>'), "declares a document type"),
        (members(ovf='<?xml version="1.0" encoding="klingon"?><Envelope/>'), "ovf is damaged"),
        (members(("y.mf", b"")), "2 manifests"),
        (members(("a", b"1"), ("a", b"1")), "there twice"),
        (
            members(("b", b"2"), mf=make.manifest([("x.ovf", make.OVF.format("").encode())])),
            "no digest of 'b'",
        ),
        (members(mf=b""), "manifest is cut off|no digest"),
        (members(mf=b"SHA256 (x.ovf) = " + b"0" * 64), "cut off"),
        (members(mf=b"SHA1 (x.ovf) = " + b"0" * 64 + b"\n"), "line 1"),
        (members(mf=make.manifest([("x.ovf", b""), ("x.ovf", b"")])), "'x.ovf' twice"),
        (
            members(mf=make.manifest([("x.ovf", make.OVF.format("").encode()), ("y", b"")])),
            "'y' is in the manifest",
        ),
        (make.tar_file([("a.vmdk", b"d"), ("x.ovf", b"")]), "first member is no .ovf"),
        (make.tar_header("x.ovf", 2**62), "cut off"),
        (make.tar_header("x.ovf", 2**80), "impossible size"),
        (make.tar_header("x.ovf", 0, kind=b"2"), "no ordinary file"),
        (make.tar_header("x.ovf", 0, kind=b"x"), "no ordinary file"),
        (make.tar_header("", 0), "no ordinary file"),
        (
            b"".join(make.tar_header(f"{number}", 0) for number in range(2000)),
            "more than 1000 members",
        ),
    ],
)
def test_strange_files(tmp_path, data, reason):
    with pytest.raises(CopyError, match=reason):
        check(tmp_path, data)


def test_names_that_leave_the_directory_are_names_like_others(tmp_path):
    """VirtualBox itself writes them for a VM called ../../etc; nothing is ever unpacked here."""
    assert (
        check(tmp_path, make.ova(disk_name="../../etc-disk001.vmdk")).members[1].name
        == "../../etc-disk001.vmdk"
    )


@pytest.mark.broad
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=4096)
    | st.lists(st.tuples(st.text(max_size=90), st.binary(max_size=600))).map(make.tar_file)
)
def test_any_bytes_are_refused_with_a_reason(tmp_path, data):
    with pytest.raises(CopyError):
        check(tmp_path, data)


def test_a_disk_that_virtualbox_leaves_out_of_the_manifest_is_checked_grain_by_grain(tmp_path):
    disk = make.vmdk({3: b"x" * 65536})
    assert check(
        tmp_path, make.ova(disk, disk_name="web (1)-disk001.vmdk", listed=False)
    ).unlisted == ("web (1)-disk001.vmdk",)
    with pytest.raises(CopyError, match="damaged grain"):
        check(
            tmp_path,
            make.ova(flipped(disk, 128 * 512 + 20), disk_name="web (1)-disk001.vmdk", listed=False),
        )
    with pytest.raises(CopyError, match="no digest of 'web1"):
        check(tmp_path, make.ova(disk, disk_name="web1-disk001.vmdk", listed=False))


@pytest.mark.broad
def test_sizes_above_eight_gibibytes_and_bounded_memory(tmp_path):
    """A sparse file stands for the real thing; the check is stopped as soon as it reads data."""
    size = 9 << 30
    head = (
        make.tar_header("x.ovf", len(ovf := make.OVF.format("").encode()))
        + ovf
        + bytes(-len(ovf) % 512)
    )
    mf = b"SHA256 (x.ovf) = " + b"0" * 64 + b"\nSHA256 (big.vmdk) = " + b"0" * 64 + b"\n"
    with (tmp_path / "x.ova").open("wb") as file:
        file.write(head + make.tar_header("big.vmdk", size))
        file.seek(size, io.SEEK_CUR)
        file.write(make.tar_header("x.mf", len(mf)) + mf + bytes(-len(mf) % 512))
    seen = []
    tracemalloc.start()
    with pytest.raises(CheckStoppedError):
        check_ova(
            tmp_path,
            "x.ova",
            progress=lambda done, total: seen.append((done, total)),
            should_stop=lambda: len(seen) == 40,
        )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen[-1][1] > size
    assert seen[-1][0] == 40 << 20
    assert peak < 20 << 20


def test_links_and_missing_files_are_not_read(tmp_path):
    (tmp_path / "real.ova").write_bytes(make.ova())
    (tmp_path / "x.ova").symlink_to("real.ova")
    with pytest.raises(NasError, match=r"cannot read x.ova"):
        check_ova(tmp_path, "x.ova")
    with pytest.raises(NasError, match="No such file"):
        check_ova(tmp_path, "gone.ova")
