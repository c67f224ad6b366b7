"""`vmbackup-admin statedb`: one module for each of its commands."""

from typing import Final

import click

from coordinator.commands.statedb.accept import accept
from coordinator.commands.statedb.adopt import adopt
from coordinator.commands.statedb.check import check
from coordinator.commands.statedb.migrate import migrate
from coordinator.commands.statedb.rebuild import rebuild
from coordinator.commands.statedb.upgrade import upgrade
from shared.command_line import HELP

command: Final = click.Group(
    "statedb",
    commands=[check, migrate, upgrade, adopt, rebuild, accept],
    help="Check, migrate, upgrade, correct, rebuild or accept the state database itself.",
    context_settings=HELP,
)
