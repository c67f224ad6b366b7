"""Where things are if nothing else is said. In a module of its own, for what must start quickly."""

import os
from pathlib import Path
from typing import Final

#: Where a configuration is looked for when neither `--config` nor `$VMBACKUP_CONFIG` names one.
DEFAULT_PATHS: Final = (Path("/etc/vmbackup/config.toml"), Path("~/.config/vmbackup/config.toml"))


def usual_state_directory() -> Path:
    """Where a host's own locks and notes are if nothing else is set; `~` is not replaced yet."""
    return Path("/var/lib/vmbackup" if os.geteuid() == 0 else "~/.local/state/vmbackup")
