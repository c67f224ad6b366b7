"""The configuration: what can be set (`model`, `policy`), and how a file is read (`loading`).

Every error of a file is reported at once, in our own words (`refusals`). `text` makes the sample
file and the reference.
"""

from shared.host.configuration.backup_rule import WISH, BackupRule, decide
from shared.host.configuration.loading import DEFAULT_PATHS, ENVIRONMENT, find, load, validated
from shared.host.configuration.model import (
    STATE_DIRECTORY,
    Configuration,
    Host,
    Nas,
    VirtualBox,
)
from shared.host.configuration.policy import Backup, PolicyTable, VmPolicy
from shared.host.configuration.telling import NotifyTarget, Ping

__all__ = [
    "DEFAULT_PATHS",
    "ENVIRONMENT",
    "STATE_DIRECTORY",
    "WISH",
    "Backup",
    "BackupRule",
    "Configuration",
    "Host",
    "Nas",
    "NotifyTarget",
    "Ping",
    "PolicyTable",
    "VirtualBox",
    "VmPolicy",
    "decide",
    "find",
    "load",
    "validated",
]
