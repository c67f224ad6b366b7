"""The demo's program.

Ends with 0 if everything went as it says, and leaves nothing behind, also when it is interrupted.
"""

import argparse
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

from deploy.demo.narration import Narrator
from deploy.demo.stage import DemoFailedError, stage
from deploy.demo.story import Story


def main() -> int:
    """Runs it; answers the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="simulated VirtualBox hosts, also where there could be real ones",
    )
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    began = time.monotonic()
    narrator = Narrator()
    try:
        with stage(narrator, simulate=given.simulate) as made:
            kind, page = made.kind, made.page
            Story(made, narrator).tell()
            narrator.heading("Cleaning up")
    except DemoFailedError as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; everything that the demo made was removed.", file=sys.stderr)
        return 130
    narrator.say(
        f"That took {time.monotonic() - began:.0f} s. The hosts were {kind}. Everything that "
        f"the demo made was removed, but its page."
    )
    narrator.say(
        "Next: README.md sets up your own hosts; docs/operation.md is for the time after; "
        "`make "
        "test` shows that all of this holds."
    )
    print(f"\nThe page of the demo, for your browser: {page.as_uri()}")
    return 0


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    for known in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(known, signal.SIG_IGN)  # the cleaning up is not to be interrupted
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
