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
    "shared.reports.space",
    "shared.tasks.archiving",
    "shared.tasks.copy_hold",
    "shared.tasks.judgement",
    "shared.tasks.publication",
    "shared.tasks.rehearsal",
    "statistics",
    "worker.backup.attempt",
    "worker.backup.backup_round",
    "worker.backup.engine",
    "worker.backup.plan",
    "worker.rehearsals",
    "worker.tell",
}
#: `run`, which notes by process what it and its forks import, and what they make to check records.
LISTENING = """
import os, sys
def note(what): os.write(log, f"{os.getpid()} {what}\\n".encode())
class Finder:
    @staticmethod
    def find_spec(name, path, target=None): note(name)
def make(self, kind, **more):
    note(f"checks of {kind}")
    made(self, kind, **more)
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.meta_path.insert(0, Finder)
os.register_at_fork(after_in_child=lambda: note('begins'))
from pydantic import TypeAdapter
made, TypeAdapter.__init__ = TypeAdapter.__init__, make
from worker.cli import main
main()
"""


def test_an_idle_tick_imports_nothing_that_it_does_not_need_and_nothing_in_each_worker(
    rig: Rig,
) -> None:
    rig.host().make_vm("web01")
    rig.look()
    site = rig.site()
    assert backup.run(site).done == ["web01"]
    tables = {
        "nas": {"mountpoint": str(rig.nas), "require_mount": False, "reserve": 0},
        "host": {"node": "alpha", "state_directory": str(site.configuration.host.state_directory)},
        "virtualbox": {"vboxmanage": str(rig.host().vboxmanage), "home": str(rig.host().home)},
        "page": {"file": ""},
    }
    config, log = rig.folder / "config.toml", rig.folder / "imports"
    lines = [
        f"{table}.{key} = {json.dumps(value)}"
        for table, settings in tables.items()
        for key, value in settings.items()
    ]
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    program = [sys.executable, "-P", "-c", LISTENING, str(log), "--config", str(config), "run"]
    done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    noted = {tuple(line.split(" ", 1)) for line in log.read_text(encoding="utf-8").splitlines()}
    what = Counter(each for _, each in noted)
    assert what.pop("begins") == 5, "each worker is a fork"
    assert {"worker.vmfind", "worker.verify", "filelock"} <= set(what), "it is heard"
    assert NOT_NEEDED & set(what) == set()
    assert [each for each, times in what.items() if times > 2] == []
