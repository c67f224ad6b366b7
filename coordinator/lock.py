"""`vmbackup-lock`: who holds what, and how to free what a crash has left."""

from typing import Final

try:
    from shared.program import Program
except KeyboardInterrupt:  # ^C before there is anything that heeds it
    raise SystemExit(130) from None

COMMANDS: Final = {
    "list": "Who holds what: the database, sessions, claims on VMs.",
    "show": "One lock in full: its holder, what it does, how far it is.",
    "break": "Free one lock; a live one only with --force.",
    "recover": "Free all that a crashed host held.",
}

program: Final = Program(
    "vmbackup-lock",
    "coordinator.commands.lock_",
    COMMANDS,
    purpose="Locks of the backup system: look at them, and free what a crash has left. Workers "
    "do so by themselves; this is for when "
    "you do not want to wait.",
)


def main() -> None:
    """The program's entry point."""
    program.main()


if __name__ == "__main__":
    main()
