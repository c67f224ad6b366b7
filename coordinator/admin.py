"""`vmbackup-admin`: what an operator does with backups."""

from typing import Final

try:
    from shared.program import Program
except KeyboardInterrupt:  # ^C before there is anything that heeds it
    raise SystemExit(130) from None

COMMANDS: Final = {
    "init": "Make a new state database on the NAS.",
    "status": "All VMs: state, last good copy, failures, progress.",
    "check": "Is my backup all right? One sentence, and an exit code for monitoring.",
    "page": "All backups at a glance: one HTML file for a browser.",
    "metrics": "The backups as Prometheus reads them.",
    "notify": "Who is told when something is wrong, and of what.",
    "show": "All that is known of one VM.",
    "copies": "The copies on the NAS, good ones and others.",
    "verify": "Read copies again in full, and mark damaged ones.",
    "compare": "What changed on the disks between two copies.",
    "files": "List and fetch files inside the disks of a copy.",
    "mount": "Show a copy as read-only files: disks, partitions, volumes.",
    "umount": "Unmount a copy.",
    "restore": "Make a VM of a copy, on this host.",
    "boot": "Run a VM from a copy within seconds, while it is copied.",
    "rehearse": "Try out whether a copy can be restored, and starts.",
    "pin": "Keep a copy whatever the retention rules say.",
    "unpin": "Give a copy back to the retention rules.",
    "remove": "Remove one copy that no rule may remove by itself.",
    "prune": "Apply the retention rules; show which rule keeps each copy.",
    "log": "What happened to the VMs, when; or the commits behind it.",
    "report": "What became of each VM since yesterday, and what is due next.",
    "space": "What copies take, how that grows, when the NAS is full.",
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
    "mount": "mount:mount",
    "umount": "mount:umount",
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
