"""`make prove`: the long tests of the promises, one part after the other within a budget, and a table of what they did.

Each part is a run of pytest with `VMBACKUP_PROVE=1`, which makes its tests go on for longer; `VMBACKUP_PROVE_SECONDS` is the time it has.
Ends with 1 if a test failed, or a part was not run to its end.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.prove.table import Row, read, render

ROOT: Final = Path(__file__).resolve().parents[2]
#: A part that is asked to end has this long to say how far it came.
_GRACE_SECONDS: Final = 60


@dataclass(frozen=True)
class Part:
    """Some tests, and their share of the budget. `working` is the part of its time in which tests of bounded time work.

    What a part leaves of its time, those after it have. The length of some parts is given by what there is to do: they come first, may
    take longer than their share, and have none of the working time.
    """

    name: str
    paths: tuple[str, ...]
    share: float
    working: float = 0.8
    options: tuple[str, ...] = ()
    length_is_given: bool = False


_CLUSTER: Final = "tests/system/nas_cluster"
_WORKERS: Final = f"{_CLUSTER}/test_workers.py"
_OUTAGES: Final = f"{_CLUSTER}/test_workers_outages.py"
_APART: Final = (f"--ignore={_WORKERS}", f"--ignore={_OUTAGES}")
PARTS: Final = (
    Part("engine", ("tests/contract/test_engine_large.py",), 0.04, length_is_given=True),
    Part("nas", ("tests/system/nas", _CLUSTER), 0.20, options=_APART, length_is_given=True),
    Part("outages", (_OUTAGES,), 0.16, length_is_given=True),
    Part("protocol", ("tests/protocol",), 0.16, options=("-n", "2")),
    Part("crash", ("tests/crash",), 0.15, working=1.4, options=("-n", "2")),  # two at once
    Part("fire", ("tests/fire",), 0.11, working=0.45),
    Part("workers", (_WORKERS,), 0.18),
)


def main() -> int:
    """Runs it; answers the exit code."""
    parser = argparse.ArgumentParser(prog="make prove", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these: {', '.join(part.name for part in PARTS)}")
    parser.add_argument("--minutes", type=float, default=58, help="the budget for all of them (default: 58)")
    given = parser.parse_args()
    if unknown := set(given.parts) - {part.name for part in PARTS}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    wanted = [part for part in PARTS if not given.parts or part.name in given.parts]
    end = time.monotonic() + given.minutes * 60
    rows: list[Row] = []
    whole = True
    with tempfile.TemporaryDirectory(prefix="vmbackup-prove.") as folder:
        for number, part in enumerate(wanted):
            left = end - time.monotonic()
            seconds = left if part.length_is_given else left * part.share / sum(later.share for later in wanted[number:])
            found, ended_well = run(part, seconds, Path(folder) / f"{part.name}.xml")
            rows += found
            whole = whole and ended_well
            print(render(rows), flush=True)
    print("everything held" if whole else "NOT everything held: see above")
    return 0 if whole else 1


def run(part: Part, seconds: float, report: Path) -> tuple[Sequence[Row], bool]:
    """Runs a part for at most so long; what its tests did, and whether all of them passed."""
    print(f"\n== {part.name}: at most {seconds / 60:.0f} minutes", flush=True)
    environment = {**os.environ, "VMBACKUP_PROVE": "1", "VMBACKUP_PROVE_SECONDS": f"{seconds * part.working:.0f}"}
    reporting = ["--override-ini=junit_family=xunit1", f"--junitxml={report}"]  # the family in which tests may record properties
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", *reporting, *part.options, *part.paths]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, process_group=0)
    try:
        status = _wait(process, seconds)
    except BaseException:
        _end(process)
        raise
    rows = read(report, part.name)
    if status is None:
        rows = [*rows, Row(part.name, "(ended: its time was over)", failed=1, seconds=time.monotonic() - began)]
    return rows, status == 0


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """As from the keyboard, so that fixtures clean up and the report is written; in the end by force."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return


if __name__ == "__main__":
    sys.exit(main())
