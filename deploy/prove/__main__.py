"""`make prove`: the long tests of the promises, within a budget, and a table of what they did.

Each part is a run of pytest with `VMBACKUP_PROVE=1`, which makes its tests go on for longer;
`VMBACKUP_PROVE_SECONDS` is the time it has. The parts are in lanes, which run side by side: one
keeps the processor busy, two mostly wait, for leases and servers on real mounts. Ends with 1 if a
test failed, or a part was not run to its end.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.prove.table import Row, read, render

ROOT: Final = Path(__file__).resolve().parents[2]
#: A part that is asked to end has this long to say how far it came.
_GRACE_SECONDS: Final = 60


@dataclass(frozen=True)
class Part:
    """Some tests, and their share of the time of their lane.

    `working` is the part of its time in which tests of bounded time work.

    What a part leaves of its time, those after it have. The length of some parts is given by what
    there is to do: they come first, may take longer than their share, and have none of the working
    time.
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
#: Parts of one lane follow each other.
LANES: Final = (
    (
        Part("workers", (_WORKERS,), 0.6, length_is_given=True),
        Part("nas", ("tests/system/nas", _CLUSTER), 0.4, options=_APART, length_is_given=True),
    ),
    (
        Part("outages", (_OUTAGES,), 0.35, length_is_given=True),
        Part("installed", ("tests/installed",), 0.1, length_is_given=True),
        Part("ordinary", ("tests/ordinary",), 0.35, working=0.8, options=("-n", "2")),
        Part("kinds", ("tests/kinds",), 0.2, working=0.7, options=("-s",)),
    ),
    (
        Part("engine", ("tests/contract/test_engine_large.py",), 0.06, length_is_given=True),
        Part(
            "protocol", ("tests/protocol",), 0.34, working=0.3, options=("-n", "2")
        ),  # most of it is search, to its end
        Part("fire", ("tests/fire",), 0.16, working=0.25),
        Part("crash", ("tests/crash",), 0.44, working=1.1, options=("-n", "2")),  # two at once
    ),
)


class Proof:
    """A run of lanes until a time of the monotonic clock.

    What was found, whether all held, what still runs.
    """

    def __init__(self, end: float, folder: Path) -> None:
        self._end, self._folder = end, folder
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._rows: list[Row] = []
        self._given_up = False
        self.held = True

    def run(self, lanes: Sequence[Sequence[Part]]) -> None:
        """Runs all lanes. An error, or an interrupt from the keyboard, ends what runs."""
        with ThreadPoolExecutor(max_workers=len(lanes)) as pool:
            done = [pool.submit(self._run_lane, lane) for lane in lanes]
            try:
                for lane in done:
                    lane.result()
            except BaseException:
                self._given_up = True
                for process in tuple(self._running):
                    _end(process)
                raise

    def _run_lane(self, lane: Sequence[Part]) -> None:
        for number, part in enumerate(lane):
            if self._given_up:
                return
            left = max(0.0, self._end - time.monotonic())
            seconds = (
                left
                if part.length_is_given
                else left * part.share / sum(later.share for later in lane[number:])
            )
            self._run_part(part, seconds)

    def _run_part(self, part: Part, seconds: float) -> None:
        """Runs a part for at most so long, and shows what its tests said and did."""
        print(f"== {part.name}: at most {seconds / 60:.0f} minutes", flush=True)
        report, output = self._folder / f"{part.name}.xml", self._folder / f"{part.name}.txt"
        environment = {
            **os.environ,
            "VMBACKUP_PROVE": "1",
            "VMBACKUP_PROVE_SECONDS": f"{seconds * part.working:.0f}",
        }
        began = time.monotonic()
        with output.open("wb") as said:
            process = subprocess.Popen(
                _command(part, report),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                process_group=0,
            )
            self._running.add(process)
            status = _wait(process, seconds)
            self._running.discard(process)
        rows = read(report, part.name)
        if status is None:
            over = "(ended: its time was over)"
            rows = [*rows, Row(part.name, over, failed=1, seconds=time.monotonic() - began)]
        with self._lock:
            self._rows += rows
            self.held = self.held and status == 0
            print(
                (
                    f"\n== {part.name}: {time.monotonic() - began:.0f} "
                    f"s\n{output.read_text(errors='replace')}\n{render(self._rows)}"
                ),
                flush=True,
            )


def _command(part: Part, report: Path) -> list[str]:
    """Runs the tests of a part, and has them write a report."""
    return [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=short",
        "--override-ini=junit_family=xunit1",  # in which tests may record properties
        f"--junitxml={report}",
        "-o",
        f"cache_dir=.pytest_cache/{part.name}",  # two parts that run at once must not share it
        *part.options,
        *part.paths,
    ]


def main() -> int:
    """Runs it; answers the exit code."""
    names = [part.name for lane in LANES for part in lane]
    parser = argparse.ArgumentParser(prog="make prove", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these: {', '.join(names)}")
    parser.add_argument(
        "--minutes", type=float, default=58, help="the budget for all of them (default: 58)"
    )
    given = parser.parse_args()
    if unknown := set(given.parts) - set(names):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    lanes = [
        wanted
        for lane in LANES
        if (wanted := [part for part in lane if not given.parts or part.name in given.parts])
    ]
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored in the background, and parts would inherit that
    with tempfile.TemporaryDirectory(prefix="vmbackup-prove.") as folder:
        proof = Proof(time.monotonic() + given.minutes * 60, Path(folder))
        proof.run(lanes)
    print("everything held" if proof.held else "NOT everything held: see above")
    return 0 if proof.held else 1


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """As from the keyboard, so that fixtures clean up and the report is written.

    In the end by force.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return


if __name__ == "__main__":
    sys.exit(main())
