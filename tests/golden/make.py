"""Makes the golden data of a release: `python -m tests.golden.make 027e4e6`.

The release is built from the history and driven by `scenes.py`, with its own simulated VirtualBox
and its own crash points.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.releases import install


def main(commit: str) -> None:
    """Writes one archive a scene below `tests/golden/COMMIT`."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory(prefix="vmbackup-golden.") as folder:
        release = install(commit, Path(folder) / "release")
        program = [sys.executable, "-P", here / "scenes.py", Path(folder) / "scenes", here / commit]
        subprocess.run(program, env={**os.environ, **release.environment}, check=True)


if __name__ == "__main__":
    main(sys.argv[1])
