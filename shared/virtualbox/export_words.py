"""What a VM is called and how it is described in its copy, where that is not as in VirtualBox."""

from dataclasses import dataclass
from typing import Final

from shared.virtualbox.inventory import Machine

#: VirtualBox (7.2.22) exports longer descriptions, and does not import them: `Element 'Annotation'
#: exceeds limit of 8192 bytes`. Bytes of UTF-8.
LONGEST_DESCRIPTION: Final = 8192
_CUT: Final = "\n[...] Cut off for VirtualBox: the whole description is in the .vbox file."


@dataclass(frozen=True, slots=True)
class ExportedAs:
    """Name and description of a VM in its copy. None: its own."""

    name: str | None = None
    description: str | None = None

    def words(self) -> tuple[str, ...]:
        """What `VBoxManage export` takes for that."""
        words = [f"--vmname={self.name}"] if self.name is not None else []
        words += [f"--description={self.description}"] if self.description is not None else []
        return ("--vsys", "0", *words) if words else ()


def exported_as(machine: Machine, vm_name: str | None) -> ExportedAs:
    """How a VM is exported so that VirtualBox imports the copy, under the name `vm_name` if given.

    A description that is too long is cut; the kept settings file has all of it.
    """
    whole = machine.settings.description if machine.settings else ""
    return ExportedAs(vm_name, None if _fits(whole) else _shortened(whole))


def _fits(description: str) -> bool:
    return len(description.encode("utf-8", "surrogatepass")) <= LONGEST_DESCRIPTION


def _shortened(description: str) -> str:
    room = LONGEST_DESCRIPTION - len(_CUT)
    return description.encode("utf-8", "replace")[:room].decode("utf-8", "ignore") + _CUT
