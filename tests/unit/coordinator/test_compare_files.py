"""`vmbackup-admin compare --files`: which files differ, on real file systems."""

import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from shared.host.errors import ExitCode
from tests.support import guest_disks
from tests.support.copies import put_copy, tar_file, vmdk
from tests.unit.coordinator.conftest import Operator

pytestmark = pytest.mark.slow

OLD, NEW = "20261121T203800Z-9", "20261122T203800Z-17"
LONG_AGO = (1_700_000_000, 1_700_000_000)


def put(operator: Operator, stamp: str, image: Path) -> None:
    if not (operator.nas / "web").exists():
        operator.add_vms("web")
    put_copy(operator.nas / "web", stamp, guest_disks.as_copy(image))


def compared(operator: Operator, code: int = 0) -> dict[str, Any]:
    result = operator.admin("compare", "web", OLD, NEW, "--files", "--json")
    assert result.exit_code == code, result.output
    return dict(json.loads(result.stdout))


def told(document: dict[str, Any]) -> set[tuple[str, str, str]]:
    """What happened to which path, and what of it differs."""
    return {(row["what"], row["path"], ",".join(row["details"])) for row in document["files"]}


def before(files: Path) -> None:
    for name in ("same", "grown", "quiet", "touched", "mode", "gone", "kind", "dir/a", "left/x"):
        path = files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 50_000)
        os.utime(path, LONG_AGO)
    (files / "link").symlink_to("same")
    os.utime(files / "link", LONG_AGO, follow_symlinks=False)


def after(files: Path) -> None:
    """Whoever adds the first of all names moves every inode."""
    (files / "a first one").write_bytes(b"new")
    (files / "dir/bad\x1bname").write_bytes(b"new")
    (files / "grown").write_bytes(b"grown" * 50_001)
    (files / "quiet").write_bytes(b"other" * 50_000)
    os.utime(files / "quiet", LONG_AGO)
    os.utime(files / "touched")
    (files / "mode").chmod(0o600)
    (files / "gone").unlink()
    (files / "kind").unlink()
    (files / "kind").mkdir()
    (files / "link").unlink()
    (files / "link").symlink_to("grown")
    shutil.rmtree(files / "left")


WANT = {
    ("added", "/a first one", ""),
    ("added", "/dir/bad\x1bname", ""),
    ("changed", "/grown", "content,modified"),
    ("changed", "/quiet", "content"),
    ("attributes", "/touched", "modified"),
    ("attributes", "/mode", "mode"),
    ("removed", "/gone", ""),
    ("changed", "/kind", "type"),
    ("changed", "/link", "target,modified"),
    ("removed", "/left", ""),
    ("removed", "/left/x", ""),
}


@pytest.fixture
def changed(site_with_database: Operator, tmp_path: Path) -> Operator:
    """A VM whose two copies have ext4, FAT, LUKS and XFS, of which only ext4 differs."""
    files = tmp_path / "files"
    files.mkdir()
    before(files)
    (tmp_path / "f").mkdir()
    (tmp_path / "f/alike").write_bytes(b"alike")
    parts = [guest_disks.fat(tmp_path / "fat", tmp_path / "f", 4 << 20)]
    for name, magic in (("luks", b"LUKS\xba\xbe\x00\x02"), ("xfs", b"XFSB")):
        (tmp_path / name).write_bytes(magic.ljust(guest_disks.MIB, b"\1"))
        parts.append(tmp_path / name)
    for stamp, change in ((OLD, None), (NEW, after)):
        if change:
            change(files)
        ext = guest_disks.ext(tmp_path / f"ext{stamp}", files, "ext4", 8 << 20)
        put(site_with_database, stamp, guest_disks.disk(tmp_path / stamp, [ext, *parts]))
    return site_with_database


def test_each_file_that_differs_is_named_and_no_other(changed: Operator) -> None:
    document = compared(changed)
    assert told(document) == WANT
    systems = {row["place"]: row for row in document["systems"]}
    assert systems["1.1"]["counts"] == {"added": 2, "removed": 3, "changed": 4, "attributes": 2}
    assert systems["1.2"]["counts"] == {}
    assert systems["1.3"]["why"] == "it is encrypted (LUKS)"
    assert "XFS is not read" in systems["1.4"]["why"]
    assert "vmbackup-admin mount" in systems["1.4"]["advice"]
    assert (document["file_problems"], document["unlisted"]) == ([], 0)
    assert document["disks"] is None


def test_people_read_a_line_for_each_that_drives_no_terminal(changed: Operator) -> None:
    result = changed.admin("compare", "web", "previous", "latest", "--files")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "changed    1.1:/quiet  (content)" in lines
    assert any(line.startswith("added      1.1:/dir/bad\\x1bname") for line in lines)
    counts = "2 added, 3 removed, 4 changed, 2 with other attributes only"
    assert f"1.1 (ext4): {counts}" in lines
    assert "1.2 (FAT): no file differs" in lines
    assert any(re.match(r"1\.3: no files are compared: it is encrypted", line) for line in lines)
    assert "takes about" not in result.stderr  # blocks are not counted by reading everything


def test_a_directory_that_leads_in_a_circle_is_a_problem(
    site_with_database: Operator, tmp_path: Path
) -> None:
    files = tmp_path / "files"
    (files / "d/e").mkdir(parents=True)
    for stamp in (OLD, NEW):
        image = guest_disks.ext(tmp_path / stamp, files, "ext4", 4 << 20)
        if stamp == NEW:
            guest_disks.run("debugfs", "-w", "-R", "ln /d /d/e/again", image)
        put(site_with_database, stamp, image)
    document = compared(site_with_database, ExitCode.SOME_FAILED)
    assert [row["path"] for row in document["file_problems"]] == ["/d/e/again"]
    assert told(document) == {("added", "/d/e/again", "")}


def test_what_a_damaged_directory_had_is_neither_added_nor_removed(
    site_with_database: Operator, tmp_path: Path
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    before(files)
    for stamp in (OLD, NEW):
        put(site_with_database, stamp, guest_disks.ext(tmp_path / stamp, files, "ext4", 8 << 20))
    found = guest_disks.run("debugfs", "-R", "bmap /dir 0", tmp_path / OLD)
    path = site_with_database.nas / "web" / f"{OLD}.ova"
    copy = bytearray(path.read_bytes())
    size = int(
        re.findall(r"Block size: +(\d+)", guest_disks.run("dumpe2fs", "-h", tmp_path / OLD))[0]
    )
    guest_disks.lose_block(copy, int(found) * size // guest_disks.GRAIN)
    path.write_bytes(copy)
    document = compared(site_with_database, ExitCode.SOME_FAILED)
    assert document["file_problems"]
    assert not {row for row in told(document) if row[1].startswith("/dir/")}


def test_a_disk_with_a_broken_header_blocks_no_other(
    site_with_database: Operator, tmp_path: Path
) -> None:
    operator = site_with_database
    operator.add_vms("web")
    files = tmp_path / "files"
    files.mkdir()
    (files / "here").write_bytes(b"here")
    image = guest_disks.ext(tmp_path / "e", files, "ext4", 4 << 20)
    data = image.read_bytes()
    grains = {place // 65536: data[place : place + 65536] for place in range(0, len(data), 65536)}
    disks = [("a.vmdk", b"no disk".ljust(4096, b"\0")), ("b.vmdk", vmdk(grains))]
    for stamp in (OLD, NEW):
        put_copy(operator.nas / "web", stamp, tar_file([("x.ovf", b"<x/>"), *disks]))
    listed = operator.json("files", "web")["systems"]
    assert [(row["place"], row["type"]) for row in listed] == [("1", "unknown"), ("2", "ext4")]
    assert "cannot be read" in listed[0]["note"]
    assert operator.admin("files", "web", "/here", "--get", str(tmp_path)).exit_code == 0
    assert (tmp_path / "here").read_bytes() == b"here"
    result = operator.admin("compare", "web", OLD, NEW)
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "0 blocks differ" in result.stdout
    document = compared(operator)
    assert {row["place"]: bool(row["why"]) for row in document["systems"]} == {
        "1": True,
        "2": False,
    }


def test_a_file_whose_time_was_put_back_is_read(
    site_with_database: Operator, tmp_path: Path
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for stamp, content in ((OLD, b"one"), (NEW, b"two")):
        (files / "quiet").write_bytes(content)
        os.utime(files / "quiet", LONG_AGO)
        image = guest_disks.ext(tmp_path / stamp, files, "ext4", 4 << 20)
        guest_disks.run("debugfs", "-w", "-R", f"sif /quiet ctime @{len(stamp)}", image)
        put(site_with_database, stamp, image)
    assert told(compared(site_with_database)) == {("changed", "/quiet", "content")}


def test_a_damaged_file_system_ends_with_an_answer(changed: Operator, tmp_path: Path) -> None:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    chance = random.Random(seed)
    raw = bytearray((tmp_path / NEW).read_bytes())
    used = [at for at in range(0, 4 << 20, 512) if raw[at : at + 512].strip(b"\0")]
    for at in chance.sample(used, 60):
        for _ in range(8):
            raw[at + chance.randrange(512)] = chance.choice([0, 1, 0xFF, chance.randrange(256)])
    (tmp_path / "damaged").write_bytes(raw)
    put(changed, NEW, tmp_path / "damaged")
    result = changed.admin("compare", "web", OLD, NEW, "--files")
    assert result.exit_code in (0, 1, 3), result.output
    assert "unexpected" not in result.output
