"""The configuration: what can be set (`model`, `policy`), and how a file is read (`loading`).

Every error of a file is reported at once, in our own words (`refusals`). `text` makes the sample
file and the reference.
"""

from shared.host.configuration.decision import WISH, Decision, decide
from shared.host.configuration.loading import DEFAULT_PATHS, ENVIRONMENT, find, load, validated
from shared.host.configuration.model import (
    STATE_DIRECTORY,
    Configuration,
    Host,
    Nas,
    VirtualBox,
)
from shared.host.configuration.policy import Backup, Policy, VmPolicy

__all__ = [
    "DEFAULT_PATHS",
    "ENVIRONMENT",
    "STATE_DIRECTORY",
    "WISH",
    "Backup",
    "Configuration",
    "Decision",
    "Host",
    "Nas",
    "Policy",
    "VirtualBox",
    "VmPolicy",
    "decide",
    "find",
    "load",
    "validated",
]
