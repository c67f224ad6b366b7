"""Whether a VM is backed up at all, and which rule says so. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shared.host.configuration.model import Configuration
from shared.host.printable import one_line

#: The extra data by which a VM says itself whether it is to be backed up.
WISH: Final = "vmbackup/backup"
#: Why its host leaves a VM out that runs from a copy, whatever its configuration says.
UNFINISHED: Final = "runs from a copy until `vmbackup-admin boot --finish`"
_ALWAYS, _NEVER = "always", "never"


@dataclass(frozen=True, slots=True)
class BackupRule:
    """What the configuration says of a VM.

    `rule` names what decided, as it stands in the file or with the VM. `ignored` says why what the
    VM says of itself did not count; empty if it did, or if it says nothing.
    """

    left_out: bool
    rule: str
    ignored: str = ""


def decide(configuration: Configuration, name: str, groups: Iterable[str], wish: str) -> BackupRule:
    """Whether a VM is left out of backups. `wish`: what it says itself, empty if nothing.

    Extra data comes along with clones and with VMs from elsewhere, so it counts only where the
    VM's policy lets it. A word that is not understood leaves nothing out.
    """
    found = configuration.table_for(name, groups)
    title, table = (f'[policy."{found[0]}"]', found[1]) if found else ("[backup]", None)
    set_there = table.model_fields_set if table else frozenset()
    own = table if table and "backup" in set_there else None
    asked = table if table and "vm_decides" in set_there else configuration.backup
    said = f'its extra data {WISH} = "{one_line(wish)}"'
    ignored = ""
    if wish and not asked.vm_decides:
        ignored = f"{said} is ignored: vm_decides = false"
    elif wish and wish not in (_ALWAYS, _NEVER):
        ignored = f'{said} is ignored: it may be "{_ALWAYS}" or "{_NEVER}"'
    elif wish:
        return BackupRule(wish == _NEVER, said)
    if (own or configuration.backup).backup == _NEVER:
        rule = f'{title if own else "[backup]"} backup = "{_NEVER}"'
        return BackupRule(left_out=True, rule=rule, ignored=ignored)
    return BackupRule(left_out=False, rule=title, ignored=ignored)
