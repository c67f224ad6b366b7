"""A tick that finds nothing to do, as most do, imports no more than it needs, and that once."""

import json
import subprocess
import sys
from collections import Counter

from tests.simulated.conftest import Rig
from worker.backup import worker as backup

#: What exports, restores, repairs or tells, and what of Python's own is large.
NOT_NEEDED = {
    "concurrent.futures.process",
    "difflib",
    "jinja2",
    "shared.copies.moving",
    "shared.export",
    "shared.frozen.store",
    "shared.notices",
    "shared.ova.vmdk_writing",
    "shared.reports.space_growth",
    "shared.tasks.archiving",
    "shared.tasks.copy_hold",
    "shared.tasks.judgement",
    "shared.tasks.publication",
    "shared.tasks.rehearsal",
    "statistics",
    "worker.backup.attempt",
    "worker.backup.backup_round",
    "worker.backup.engine_choice",
    "worker.backup.plan",
    "worker.rehearsals",
    "worker.tell",
}
#: `run`, which notes by process what it and its forks import and open, and what they make to check
#: records.
LISTENING = """
import os, sys
def note(what): os.write(log, f"{os.getpid()} {what}\\n".encode())
class Finder:
    @staticmethod
    def find_spec(name, path, target=None): note(name)
def make(self, kind, **more):
    note(f"checks of {kind}")
    made(self, kind, **more)
def hear(event, given):
    if event == "open" and os.path.basename(str(given[0])) in ("config.toml", "vmtool-db-version"):
        note("opens " + os.path.basename(given[0]))
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.meta_path.insert(0, Finder)
sys.addaudithook(hear)
os.register_at_fork(after_in_child=lambda: note('begins'))
from pydantic import TypeAdapter
made, TypeAdapter.__init__ = TypeAdapter.__init__, make
from worker.cli import main
main()
"""


def idle_tick(rig: Rig, page: str = "") -> Counter[tuple[str, str]]:
    """What each process of a tick that finds nothing to do notes, and how often."""
    site = rig.site()
    tables = {
        "nas": {"mountpoint": str(rig.nas), "require_mount": False, "reserve": 0},
        "host": {"node": "alpha", "state_directory": str(site.configuration.host.state_directory)},
        "virtualbox": {"vboxmanage": str(rig.host().vboxmanage), "home": str(rig.host().home)},
        "page": {"file": page},
    }
    config, log = rig.folder / "config.toml", rig.folder / "imports"
    lines = [
        f"{table}.{key} = {json.dumps(value)}"
        for table, settings in tables.items()
        for key, value in settings.items()
    ]
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    log.unlink(missing_ok=True)
    program = [sys.executable, "-P", "-c", LISTENING, str(log), "--config", str(config), "run"]
    done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    found = [line.split(" ", 1) for line in log.read_text(encoding="utf-8").splitlines()]
    return Counter((process, what) for process, what in found)


def back_up(rig: Rig) -> None:
    rig.host().make_vm("web01")
    rig.look()
    assert backup.run(rig.site()).done == ["web01"]


def test_an_idle_tick_imports_nothing_that_it_does_not_need_and_nothing_in_each_worker(
    rig: Rig,
) -> None:
    back_up(rig)
    what = Counter(each for _, each in idle_tick(rig))
    assert what.pop("begins") == 5, "each worker is a fork"
    assert {"worker.vmfind", "worker.verify", "filelock"} <= set(what), "it is heard"
    assert NOT_NEEDED & set(what) == set()
    assert [
        each for each, times in what.items() if times > 2 and not each.startswith("opens")
    ] == []


def test_each_worker_of_an_idle_tick_reads_its_configuration_and_opens_the_database_once(
    rig: Rig,
) -> None:
    back_up(rig)
    idle_tick(rig, "vmbackup.html")
    assert (rig.nas / "vmbackup.html").exists()
    noted = idle_tick(rig, "vmbackup.html")
    for name, processes in (("config.toml", 6), ("vmtool-db-version", 5)):
        times = {each[0]: count for each, count in noted.items() if each[1] == f"opens {name}"}
        assert (len(times), set(times.values())) == (processes, {1}), name
