"""What somebody put in the place of any file of ours on the NAS: each command has an answer.

Soon, in little memory, without a word of what a link leads to, and with nothing changed there. The
product of names, things and commands; a drawn part runs, with its seed printed
(`VMBACKUP_SEED` gives it again), with `VMBACKUP_PROVE=1` a larger one. Rights of files count,
as they do for workers, which are not root.
"""

import ctypes
import itertools
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from coordinator.admin import program as admin
from coordinator.lock import program as lock
from shared.copies.sidecar_fields import Rehearsed, Screenshot
from shared.host.errors import ExitCode
from shared.state.states import State
from tests.support.copies import ova, put_copy
from tests.support.drawing import SEED, TOLD
from tests.support.proving import PROVE
from tests.unit.coordinator.conftest import Operator, copy, fall_silent
from tests.unit.coordinator.test_check import look
from tests.unit.state.test_planted import PLANTED, bounded
from worker.cli import program as worker

DRAWN = 300 if PROVE else 12
STAMP, OTHER = "20261122T203800Z-17", "20261121T203800Z-16"
SOMEBODY = 65533
WHY = 'error: |ERROR: |WARNING: |WRONG: |"error": {"kind"'
SECRET = "root-only-secret"


def _deep(path: Path) -> None:
    path.mkdir()
    here = os.open(path, os.O_RDONLY)
    for _ in range(300):  # no path can name the innermost one
        os.mkdir("d" * 200, dir_fd=here)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def _unreadable(path: Path) -> None:
    path.write_bytes(b"x")
    path.chmod(0)


def _of_another(path: Path) -> None:
    path.write_bytes(b'{"schema": 1}')
    path.chmod(0o600)
    os.chown(path, SOMEBODY, SOMEBODY)


def _device(path: Path) -> None:
    os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))  # /dev/zero


THINGS: dict[str, Callable[[Path], object]] = {
    **{name: make for name, make in PLANTED.items() if name != "a link to a file"},
    "a link to a secret": lambda path: path.symlink_to(_top(path) / SECRET),
    "a hard link": lambda path: os.link(_top(path) / SECRET, path),
    "a device": _device,
    "too deep": _deep,
    "no rights": _unreadable,
    "another owner": _of_another,
    "nothing in it": lambda path: path.touch(),
    "brackets": lambda path: path.write_bytes(b"[" * 300_000),
}
NAMES = (
    f"web01/{STAMP}.ova",
    f"web01/{STAMP}.json",
    f"web01/{STAMP}.sha256",
    f"web01/{STAMP}.vbox",
    f"web01/{STAMP}.index",
    f"web01/{STAMP}.png",
    f"web01/.{STAMP}.1.partial.ova",
    "web01",
    "archive/.vmbackup-archive",
    "vmbackup.html",
    "vmstate/vmtool-db-version",
    "vmstate/vmtool-statedb",
    "vmstate/vmtool-dblock",
    "vmstate/reserve",
    "vmstate/gen/NEWEST",
    "vmstate/history/bundle",
    "vmstate/node/.look-alpha",
    "vmstate/node/alpha.4711.0f0e0d0c",
    "vmstate/tmp/old",
    ".vmbackup-write-test.old",
)
CALLS: tuple[tuple[object, ...], ...] = (
    (admin, "status"),
    (admin, "check"),
    (admin, "show", "web01"),
    (admin, "copies", "web01"),
    (admin, "verify", "web01"),
    (admin, "compare", "web01", OTHER, STAMP),
    (admin, "files", "web01", "/"),
    (admin, "page", "--json"),
    (admin, "report"),
    (admin, "space"),
    (admin, "log"),
    (admin, "restore", "web01", "--dry-run"),
    (admin, "restore", "web01", "--into", "--dry-run"),
    (admin, "boot", "web01", "--dry-run"),
    (admin, "rehearse", "web01", "--dry-run"),
    (admin, "archive", "web01"),
    (admin, "prune", "web01"),
    (admin, "statedb", "check"),
    (lock, "list"),
    (lock, "recover"),
    (worker, "database"),
    (worker, "verify"),
    (worker, "notifier"),
)


def _top(path: Path) -> Path:
    return next(each for each in path.parents if each.name == "nas")


@contextmanager
def as_an_ordinary_user() -> Iterator[None]:
    """Root may not do here what the rights of files forbid."""
    libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, less = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == libc.capget(header, less) == 0
    less[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of those in effect
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


@pytest.fixture
def template(operator: Operator) -> Path:
    """A NAS with something at each name that is read."""
    operator.settings["page"] = {"file": "vmbackup.html"}
    operator.configure()
    operator.create()
    operator.add_vms("web01")
    operator.set("web01", status=State.CLEAN, last_copy=copy(STAMP))
    put_copy(operator.nas / "web01", OTHER, ova())
    when = "2026-11-23T20:38:00Z"
    shot = Screenshot(when, 3, "0" * 64)
    seen = Rehearsed(when, "alpha", "good", "", booted=True)
    sides = {"vbox": b"<VirtualBox/>"}
    put_copy(operator.nas / "web01", STAMP, ova(), sides=sides, rehearsed=seen, screenshot=shot)
    look(operator, "web01")
    session = operator.session()
    session.__enter__()
    fall_silent(session)  # its file stays
    return operator.folder


def planted(folder: Path, template: Path, name: str, thing: str) -> Operator:
    """A copy of that NAS with a thing in the place of a name."""
    shutil.copytree(template, folder, symlinks=True)
    operator = replace(Operator(folder), settings={"page": {"file": "vmbackup.html"}})
    operator.configure()
    newest = max(path.name for path in (operator.vmstate / "gen").iterdir())
    path = operator.nas / name.replace("NEWEST", newest)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    (operator.nas / SECRET).write_text(SECRET)
    THINGS[thing](path)
    return operator


def wrong(operator: Operator, call: tuple[object, ...]) -> str:
    """What is wrong with the answer; empty if nothing."""
    program, *words = call
    with bounded(), as_an_ordinary_user():
        runner = CliRunner(env={"VMBACKUP_CONFIG": str(operator.config)})
        result = runner.invoke(program, words)  # type: ignore[arg-type]
    if result.exception and not isinstance(result.exception, SystemExit):
        return repr(result.exception)
    if result.exit_code not in [code.value for code in ExitCode] or "Traceback" in result.output:
        return f"exit code {result.exit_code}: {result.output[-900:]}"
    if result.exit_code == ExitCode.FAILURE and not re.search(WHY, result.output):
        return f"it failed and did not say why: {result.output[-300:]}"
    if SECRET in result.output.replace(f"/{SECRET}", ""):
        return f"it tells what is behind a link: {result.output[-300:]}"
    return "it wrote there" if (operator.nas / SECRET).read_text() != SECRET else ""


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0,
    reason="only root can make devices and files of others, and give up what root may",
)
@pytest.mark.slow
@pytest.mark.timeout(7200 if PROVE else 300)
def test_each_command_has_an_answer(
    template: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cells = list(itertools.product(NAMES, THINGS, CALLS))
    chosen = random.Random(SEED).sample(cells, DRAWN)
    found, folder = [], tmp_path_factory.mktemp("planted")
    for number, (name, thing, call) in enumerate(chosen):
        operator = planted(folder / str(number), template, name, thing)
        if said := wrong(operator, call):
            found.append(f"{thing} at {name}, {call[1:]}: {said}")
        shutil.rmtree(operator.folder, ignore_errors=True)
    print(f"{TOLD}: {len(chosen)} of {len(cells)} cells, {len(found)} wrong")
    assert not found, "\n".join(found)
