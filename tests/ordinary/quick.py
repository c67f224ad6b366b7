"""Answers the product's questions to a simulated VBoxManage from a fork of its own process.

Three times as fast as a new interpreter.

Exports and imports, which go on by themselves, are processes as ever.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.support.simulated import vboxmanage

#: In the environment: what the machine says that it is, for hosts that are two machines.
MACHINE: Final = "VMBACKUP_TEST_MACHINE"


class Quick:
    """A change of the programs for `tests.crash.zygote`."""

    @staticmethod
    def apply() -> None:
        """Replaces the door to processes for VBoxManage only."""
        from shared.host import host_identity
        from shared.host.processes import Completed, SubprocessRunner

        real = SubprocessRunner.run

        def run(self: SubprocessRunner, arguments: Sequence[str], **more: Any) -> Completed:
            if Path(arguments[0]).name != "VBoxManage" or arguments[1] in ("export", "import"):
                return real(self, arguments, **more)
            status, stdout, stderr = _answer(Path(arguments[0]).parent / "config", arguments[1:])
            return Completed(tuple(arguments), status, stdout, stderr)

        SubprocessRunner.run = run  # type: ignore[method-assign]
        if machine := os.environ.get(MACHINE):
            host_identity.system_machine_id = lambda *_: machine


def _answer(home: Path, words: Sequence[str]) -> tuple[int, str, str]:
    files = [os.memfd_create(name) for name in ("stdout", "stderr")]
    child = os.fork()
    if child == 0:
        status = 70
        try:
            for number, file in enumerate(files, start=1):
                os.dup2(file, number)
            sys.stdout, sys.stderr = (
                os.fdopen(number, "w", encoding="utf-8", errors="surrogateescape")
                for number in (1, 2)
            )
            status = vboxmanage.main(str(home), list(words))
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    texts = []
    for file in files:
        os.lseek(file, 0, os.SEEK_SET)
        with os.fdopen(file, "rb") as said:
            texts.append(said.read().decode("utf-8", "backslashreplace"))
    return os.waitstatus_to_exitcode(ended), texts[0], texts[1]


MUTANTS: Final = {"quick": Quick}
