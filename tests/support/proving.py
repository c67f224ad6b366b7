"""Whether this is the long run.

`make prove` sets these variables; `make test` has a short part of everything.
"""

import os
from typing import Final

import pytest

#: `VMBACKUP_PROVE=1`: all that there is, on each kind of mount.
PROVE: Final = os.environ.get("VMBACKUP_PROVE", "") not in ("", "0")
#: How long tests that could go on for ever may take together: those of one part of `make prove`.
PROVE_SECONDS: Final = float(os.environ.get("VMBACKUP_PROVE_SECONDS", "600"))

only_when_proving: Final = pytest.mark.skipif(
    not PROVE, reason="belongs to the long run; set VMBACKUP_PROVE=1"
)
