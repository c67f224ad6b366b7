"""Starts the programs quickly: a process that has loaded them, and forks one process for each run.

Reads one JSON request a line from its input, answers with one JSON line each. Each run is a process
of its own, in a session of its own, that calls the program's real entry point; it has the doors of
`tests.crash.doors`, which may kill it.
"""

import codecs
import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.crash.doors import Doors, Kill, Point

PROGRAMS = {
    "vmbackup-worker": "worker.cli",
    "vmbackup-admin": "coordinator.admin",
    "vmbackup-lock": "coordinator.lock",
    "disk server": "tests.crash.disk_server",
}
#: Loaded once, here: a program loads them late, and each run would do it again.
_LOADED = (
    *PROGRAMS.values(),
    *(
        "worker.backup.backup_round",
        "worker.backup.plan",
        "worker.backup.worker",
        "worker.rehearsals",
        "worker.tell",
        "worker.database",
        "worker.notifier",
        "worker.verify",
        "worker.vmfind",
    ),
    *(
        "coordinator.commands.init",
        "coordinator.commands.archive",
        "coordinator.commands.statedb",
    ),
    *(
        "coordinator.commands.verify",
        "coordinator.commands.status",
        "shared.virtualbox.fingerprint",
        "_strptime",
        "email.parser",
    ),
    *(
        "shared.host.configuration",
        "shared.site",
        "shared.frozen.store",
        "shared.tasks.archiving",
        "shared.tasks.copy_hold",
        "shared.tasks.publication",
        "shared.tasks.verdicts",
        "shared.export.parallel",
        "shared.state.store.create",
        "filelock",
    ),
)


def main() -> None:
    for module in _LOADED:
        importlib.import_module(module)
    for encoding in ("ascii", "utf-8-sig"):  # also modules, which another user may not load
        codecs.lookup(encoding)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run(request)
        _, status = os.waitpid(child, 0)
        print(
            json.dumps({"number": request["number"], "status": os.waitstatus_to_exitcode(status)}),
            flush=True,
        )


def run(request: dict[str, Any]) -> None:
    """The program, in the forked process: does not return."""
    os.setsid()
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for descriptor, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(source, descriptor)
    points = os.open(request["points"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.umask(request["umask"])
    if request["user"]:
        user, group = request["user"]
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
        sys.executable = (
            shutil.which("python3", path="/usr/local/bin:/usr/bin") or sys.executable
        )  # ours may lie in root's home
    for name, value in request["settings"].items():
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
        setattr(importlib.import_module(module), attribute, value)
    for name in request["mutants"]:
        module, _, mutant = name.rpartition(":")
        importlib.import_module(module or "tests.crash.mutants").MUTANTS[mutant].apply()
    write = os.write

    def report(point: Point) -> None:
        write(points, json.dumps([point.name, point.occurrence, point.can_tear]).encode() + b"\n")

    kill = Kill(Point(*request["kill"][0]), request["kill"][1]) if request["kill"] else None
    roots = [Path(root) for root in request["roots"]]
    Doors(roots, report, kill, commands=request["commands"]).install()
    status = 70
    try:
        importlib.import_module(PROGRAMS[request["program"]]).program.main(request["arguments"])
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
