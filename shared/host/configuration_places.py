"""Where the configuration is looked for. In a module of its own, for what must start quickly."""

from pathlib import Path
from typing import Final

#: Where a configuration is looked for when neither `--config` nor `$VMBACKUP_CONFIG` names one.
DEFAULT_PATHS: Final = (Path("/etc/vmbackup/config.toml"), Path("~/.config/vmbackup/config.toml"))
