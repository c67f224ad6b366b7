"""Where the parts of an installation lie, and what is told while one is made."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CLONE: Final = Path(__file__).resolve().parents[2]
PROGRAMS: Final = ("vmbackup-admin", "vmbackup-lock", "vmbackup-worker")
SHELLS: Final = {
    "bash": "usr/local/share/bash-completion/completions/{}",
    "zsh": "usr/local/share/zsh/site-functions/_{}",
    "fish": "usr/local/share/fish/vendor_completions.d/{}.fish",
}


class InstallationError(Exception):
    """Why nothing more is done; what is there goes on as before."""


@dataclass(frozen=True)
class Places:
    """The paths of an installation below `root`, which is `/` but in tests."""

    root: Path = Path("/")

    @property
    def top(self) -> Path:
        """The programs' directory."""
        return self.root / "opt/vmbackup"

    @property
    def releases(self) -> Path:
        """The environments, one for each release and Python."""
        return self.top / "releases"

    @property
    def current(self) -> Path:
        """The link to the release that is used."""
        return self.top / "current"

    @property
    def record(self) -> Path:
        """What was installed: digests of files, and the directories that were made."""
        return self.top / "installed.json"

    @property
    def configuration(self) -> Path:
        """The configuration of all users."""
        return self.root / "etc/vmbackup/config.toml"

    def binary(self, program: str) -> Path:
        """Where a program is found by people, cron and units."""
        return self.root / "usr/local/bin" / program

    @property
    def cron(self) -> Path:
        """The entry of cron."""
        return self.root / "etc/cron.d/vmbackup"

    @property
    def units(self) -> Path:
        """The units of systemd that an administrator adds."""
        return self.root / "etc/systemd/system"

    @property
    def jobs(self) -> Path:
        """The jobs of launchd that an administrator adds."""
        return self.root / "Library/LaunchDaemons"


@dataclass
class Steps:
    """Does each step, or with `dry` only says what it would be."""

    dry: bool
    say: Callable[[str], None] = print

    def do(self, what: str, action: Callable[[], object]) -> None:
        """One step; `what` is said in the words of an order: "make /opt/vmbackup"."""
        self.say(f"would {what}" if self.dry else what)
        if not self.dry:
            action()
