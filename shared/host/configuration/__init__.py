"""The configuration: what can be set, and how a file is read (`loading`).

What can be set is in `model`, and in `backup`, `nas`, `policy` and `telling` beside it. Every error
of a file is reported at once, in our own words (`refusals`). `sample` makes the sample file and the
reference.
"""

from shared.host.configuration.backup import Backup
from shared.host.configuration.backup_rule import UNFINISHED, WISH, BackupRule, decide
from shared.host.configuration.loading import ENVIRONMENT, find, load, validated
from shared.host.configuration.model import Configuration, Host, VirtualBox
from shared.host.configuration.nas import STATE_DIRECTORY, Nas
from shared.host.configuration.policy import PolicyTable, VmPolicy
from shared.host.configuration.telling import NotifyTarget, Ping
from shared.host.configuration_places import DEFAULT_PATHS

__all__ = [
    "DEFAULT_PATHS",
    "ENVIRONMENT",
    "STATE_DIRECTORY",
    "UNFINISHED",
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
