"""What must become of a cell, by what is written down of VirtualBox and of the program."""

from tests.kinds.axes import LONG, Cell


def refusal(cell: Cell) -> str:
    """A word of the reason for which the backup of a cell is refused; empty: it is backed up."""
    runs = cell.state in ("running", "paused")
    if cell.controller == "usb":
        return "USB controller"
    #: A name that no `.ova` can have is exported from a clone, and that needs a snapshot.
    cloned = cell.running == "live" if runs else cell.name == LONG and cell.state != "saved"
    if cloned and cell.kind in ("writethrough", "shareable"):
        return cell.kind
    if cell.name == LONG and not cloned:
        return "its name has"
    return ""
