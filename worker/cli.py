"""`vmbackup-worker`: what cron runs.

Workers are short-lived and independent; start as many as you like, as often as you like.
"""

from typing import Final

try:
    from shared.program import Program
except KeyboardInterrupt:  # ^C before there is anything that heeds it
    raise SystemExit(130) from None

COMMANDS: Final = {
    "vmfind": "Tell the database which VMs this host has.",
    "notifier": "Tell the database which VMs run, stopped, or were used since their last copy.",
    "backup": "Export the VMs of this host that wait for it.",
    "verify": "Read copies of any host's VMs again that were not read for long.",
    "database": "Recover what crashed workers of any host left; tidy the database.",
    "tell": "Tell people what is wrong, by the targets of the configuration.",
    "run": "All of the above as separate processes, for a one-line crontab.",
}

program: Final = Program(
    "vmbackup-worker",
    "worker.",
    COMMANDS,
    purpose=(
        "Backs up the VirtualBox VMs of this host to the NAS. Run as the user who owns the "
        "VMs, from cron, every few minutes."
    ),
    unattended=True,
)


def main() -> None:
    """The program's entry point."""
    program.main()


if __name__ == "__main__":
    main()
