"""The benchmark's program.

Ends with 1 if an update was lost; an aim that is missed is printed, not failed: machines differ.
"""

import argparse
import os
import platform
import sys
import time

from deploy.bench import (
    boots,
    changed,
    export_engines,
    exports,
    fleet,
    hedged,
    history,
    idle,
    pauses,
    restores,
    startup,
    transactions,
    wire,
)
from deploy.bench.report import Report

PARTS = (
    *("startup", "transactions", "idle", "hedged", "exports", "engines"),
    *("restores", "boot", "wire", "changed", "pauses", "fleet", "history"),
)


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these: {', '.join(PARTS)}")
    parser.add_argument("--full", action="store_true", help="more rounds and larger VMs (hours)")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    wanted = set(given.parts or PARTS)
    report = Report()
    began = time.monotonic()
    print(
        f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    whole = True
    if "startup" in wanted:
        startup.measure(report, rounds=30 if given.full else 10)
    if "transactions" in wanted:
        whole = transactions.measure(report, seconds=15 if given.full else 4)
    if "idle" in wanted:
        idle.measure(report, rounds=9 if given.full else 3)
    _measure_copies(report, wanted, full=given.full)
    _measure_second_copies(report, wanted, full=given.full)
    if "fleet" in wanted:
        fleet.measure(report)
    if "history" in wanted:
        history.measure(report, full=given.full)
    print(
        f"\nThat took {time.monotonic() - began:.0f} s; aims missed: {report.missed}; load now "
        f"{os.getloadavg()[0]:.1f}."
    )
    if not whole:
        print("UPDATES WERE LOST", file=sys.stderr)
    return 0 if whole else 1


def _measure_copies(report: Report, wanted: set[str], *, full: bool) -> None:
    """The parts that make copies."""
    if "hedged" in wanted:
        hedged.measure(report, rounds=300 if full else 10)
    if "exports" in wanted:
        exports.measure(report, rounds=7 if full else 3, mib=512 if full else 256)
    if "engines" in wanted:
        export_engines.measure(report, rounds=3 if full else 1, mib=2000)
    if "restores" in wanted:
        restores.measure(report, rounds=3 if full else 1, mib=2000)
    if "boot" in wanted:
        boots.measure(report, rounds=5 if full else 2)


def _measure_second_copies(report: Report, wanted: set[str], *, full: bool) -> None:
    """The parts that make copies of VMs that have one, or that run."""
    if "wire" in wanted:
        wire.measure(report, mib=256 if full else 96)
    if "changed" in wanted:
        changed.measure(report, changed.Size.of(4096 if full else 320))
    if "pauses" in wanted:
        pauses.measure(report, mib=2048 if full else 256, rounds=5 if full else 2)


if __name__ == "__main__":
    sys.exit(main())
