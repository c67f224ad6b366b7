"""`vmbackup-admin`: what an operator does with backups."""

from typing import Final

from shared.command_line import Program

COMMANDS: Final = {
    "init": "Make a new state database on the NAS.",
    "status": "All VMs: state, last good copy, failures, progress.",
    "check": "Is my backup all right? One sentence, and an exit code for monitoring.",
    "notify": "Who is told when something is wrong, and of what.",
    "show": "All that is known of one VM.",
    "copies": "The copies on the NAS, good ones and others.",
    "verify": "Read copies again in full, and mark damaged ones.",
    "restore": "Make a VM of a copy, on this host.",
    "rehearse": "Try out whether a copy can be restored, and starts.",
    "pin": "Keep a copy whatever the retention rules say.",
    "unpin": "Give a copy back to the retention rules.",
    "remove": "Remove one copy that no rule may remove by itself.",
    "prune": "Apply the retention rules; show which rule keeps each copy.",
    "log": "Who changed what in the state database, when and why.",
    "archive": "Set a VM aside: its copies go to the archive, no more backups.",
    "activate": "Take an archived VM back into the backups.",
    "forget": "Delete a VM's record; its copies stay.",
    "doctor": "Examine VirtualBox, NAS, database and schedule.",
    "config": "Generate, validate or show the configuration.",
    "statedb": "Check, migrate or correct the state database.",
}

#: The commands that share a module with another one.
_WHERE: Final = {
    "archive": "archive:archive",
    "activate": "archive:activate",
    "pin": "pin:pin",
    "unpin": "pin:unpin",
}

program: Final = Program(
    "vmbackup-admin",
    "coordinator.commands.",
    COMMANDS,
    where=_WHERE,
    purpose="Backups of VirtualBox VMs of several hosts on one NAS: look at them and direct them.",
)


def main() -> None:
    """The program's entry point."""
    program.main()


if __name__ == "__main__":
    main()
