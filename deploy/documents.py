"""The files of this project that are made from its code.

The sample configuration, three pages of the documentation, and what shells complete.

`python -m deploy.documents` writes them anew; a test compares them with what it would write.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import click

from coordinator.admin import program as admin
from coordinator.commands.check import CODES
from coordinator.lock import program as lock
from shared import outline
from shared.host.configuration import sample as configuration_text
from shared.host.errors import ExitCode, VmBackupError
from shared.state import states
from worker.cli import program as worker

ROOT: Final = Path(__file__).resolve().parents[1]
_MADE: Final = "<!-- Made from the code by `python -m deploy.documents`: change it there. -->"
_ABOUT_CODES: Final = (
    "All programs (`vmbackup-worker`, `vmbackup-admin`, `vmbackup-lock`) use one registry. "
    "A status that is not listed means\n"
    "failure. The `--help` of each command lists those that it can end with. What a "
    "command line names and is not there\n"
    "(a VM, a host, a copy, a disk, a file) is 2; that there is no good copy to take, or "
    "that one is damaged, is 1."
)
_ABOUT_ERRORS: Final = (
    "The last column has the names that errors carry in JSON: with `--json` a command that "
    "fails prints\n"
    '`{"error": {"kind": …, "code": …, "message": …, "hint": …}}` on stderr; a warning is '
    '`{"warning": …}` there. `vmbackup-worker run` ends with the most telling code of\n'
    "the workers: any other failure beats 3, 3 beats 4, 4 beats 0.\n"
    "\n"
    "`vmbackup-admin check` is for monitoring programs and has exit codes of its own, "
    "those of a Nagios plugin:"
)
_ABOUT_PIPES: Final = (
    "A command whose output nobody reads to its end (`vmbackup-admin status | head -1`) "
    "ends with 1 and says nothing: it may have been\n"
    "stopped in the middle of what it had to say. A pipeline has the status of its last "
    "command, unless the shell's `pipefail` is set.\n"
    "Output that cannot be written (a full disk) is 1, too, with an error on stderr. Of `check`, "
    "both are 3, as is every error that\nkeeps it from its answer."
)

#: What an operator does about an exit code. The meanings are those that `--help` shows.
CURES: Final[Mapping[ExitCode, str]] = {
    ExitCode.DONE: "nothing",
    ExitCode.FAILURE: "read the message and its hint",
    ExitCode.USAGE: "`--help`, or `vmbackup-admin config validate`",
    ExitCode.SOME_FAILED: (
        "`vmbackup-admin status` shows which and why; they are tried again at each tick"
    ),
    ExitCode.SOME_DEFERRED: (
        "nothing: they are backed up when they have stopped. Watch the age of their last copy"
    ),
    ExitCode.NO_DATABASE: "is the right NAS mounted? A new one needs `vmbackup-admin init`",
    ExitCode.LOCKED: (
        "`vmbackup-lock list` shows who; wait, or see the runbook in `operation.md`. "
        "After `init`: nothing, `vmbackup-admin status` shows what is in the database"
    ),
    ExitCode.LOCK_LOST: (
        "nothing: the other one goes on. If it is frequent, look at the connection to the NAS"
    ),
    ExitCode.NAS: (
        "`vmbackup-admin status` shows what waits for room, `doctor` the NAS; work "
        "goes on by itself when it is back"
    ),
    ExitCode.VBOXMANAGE: "`vmbackup-admin doctor`; try `VBoxManage list vms` as the same user",
    ExitCode.STATE_REFUSED: (
        "`vmbackup-admin show VM` shows its state; the message names the moves that there are"
    ),
    ExitCode.INTERRUPTED: "run it again when you like: nothing is left half done",
    ExitCode.TERMINATED: "the same",
}


def exit_codes() -> str:
    """docs/exit-codes.md."""
    lines = [
        "# Exit codes",
        "",
        _MADE,
        "",
        _ABOUT_CODES,
        "",
        "| code | meaning | what to do | errors |",
        "|---|---|---|---|",
    ]
    for code in sorted(ExitCode):
        errors = ", ".join(f"`{name}`" for name in sorted(_errors(VmBackupError, code)))
        lines.append(f"| {code.value} | {code.meaning} | {CURES[code]} | {errors} |")
    lines += [
        "",
        _ABOUT_ERRORS,
        "",
        *(f"* {int(code)}: {meaning}" for code, meaning in CODES.items()),
        "",
        _ABOUT_PIPES,
    ]
    return "\n".join(lines) + "\n"


def _errors(kind: type[VmBackupError], code: ExitCode) -> set[str]:
    own = (
        {kind.__name__}
        if kind.exit_code == code and kind.__module__ == VmBackupError.__module__
        else set()
    )
    return own.union(*(_errors(child, code) for child in kind.__subclasses__()))


def configuration() -> str:
    """docs/configuration.md."""
    lines = [
        "# Configuration",
        "",
        _MADE,
        "",
        (
            f"One TOML file a host, the first of: {configuration_text.places_of_file()}. Unknown "
            "keys and wrong values are all reported at once, each with"
        ),
        (
            "its key. `vmbackup-admin config generate` prints a file with every setting explained "
            "(it is `deploy/config/config.toml`),"
        ),
        (
            "`config validate` checks one, `config show` prints what is in effect, with file, "
            "environment and defaults put together."
        ),
        "",
        (
            'Sizes are bytes or texts like `"10 GiB"`, `"500 MB"`. What all hosts must agree on '
            "(repository, lease time) is not configured but"
        ),
        "written to the NAS by `vmbackup-admin init`.",
        "",
    ]
    return "\n".join(lines) + "\n" + configuration_text.reference().rstrip("\n") + "\n"


def states_of_a_vm() -> str:
    """docs/states.md."""
    lines = [
        "# The states of a VM",
        "",
        _MADE,
        "",
        "```mermaid",
        states.diagram().rstrip("\n"),
        "```",
        "",
        "| from | event | to |",
        "|---|---|---|",
        f"| (unknown) | found by vmfind | `{states.INITIAL}` |",
        *(
            f"| `{source}` | {event} | `{target}` |"
            for (source, event), target in states.MOVES.items()
        ),
        *(
            f"| `{state}` | forget | (no record; copies stay) |"
            for state in states.State
            if state in states.FORGETTABLE
        ),
        "",
        (
            "Every other move is refused (exit code 15) with a message that names both states. "
            "A VM "
            "never stays"
        ),
        (
            f"{' or '.join(f'`{state}`' for state in sorted(states.IN_FLIGHT))} when its worker "
            f"dies: recovery applies `{states.Event.FAILED}`"
        ),
        "or finishes the publication that the worker had announced.",
    ]
    return "\n".join(lines) + "\n"


def outlines() -> str:
    """shared/outlines.json: what a shell completes of each command that is no group."""
    made = {}
    for program in (admin, lock, worker):
        commands = {name: program.imported(name) for name in program.names}
        single = {n: c for n, c in commands.items() if not isinstance(c, click.Group)}
        made[str(program.name)] = {name: outline.of(command) for name, command in single.items()}
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


DOCUMENTS: Final[Mapping[str, Callable[[], str]]] = {
    "deploy/config/config.toml": configuration_text.sample,
    "docs/configuration.md": configuration,
    "docs/exit-codes.md": exit_codes,
    "docs/states.md": states_of_a_vm,
    "shared/outlines.json": outlines,
}


def main() -> None:
    """Writes them all."""
    for name, render in DOCUMENTS.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(), encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
