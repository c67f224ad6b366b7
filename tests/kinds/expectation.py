"""What must become of a cell, by what is written down of VirtualBox and of the program."""

from tests.kinds.axes import LONG, Cell

_UNFROZEN = ("writethrough", "shareable")


def refusal(cell: Cell) -> str:
    """A word of the reason for which the backup of a cell is refused; empty: it is backed up."""
    cloned = _cloned(cell)
    reasons = {
        "is encrypted": cell.state == "encrypted",
        "on the USB controller": cell.controller == "usb",
        "cannot be used": cell.state == "disk gone",
        cell.kind: cloned and cell.kind in _UNFROZEN,
        "its name has": cell.name == LONG and not cloned,
        "that is on the USB controller": cell.medium == "usb iso" and not cloned,
    }
    return next((word for word, so in reasons.items() if so), "")


def _cloned(cell: Cell) -> bool:
    """Whether it is exported from a clone: that needs a snapshot, and cannot be of a saved VM.

    No `.ova` can have the longest names; nothing is exported with a CD in a drive on USB.
    """
    if cell.runs:
        return cell.running == "live"
    if cell.saved:
        return False
    return cell.name == LONG or (cell.medium == "usb iso" and cell.kind not in _UNFROZEN)


def left_out(cell: Cell) -> list[str]:
    """Words, each of which the copy must have of what is not in it."""
    words = [".iso"] if cell.medium else []
    words += ["shareable"] if cell.kind == "shareable" else []
    words += ["its snapshots"] if cell.snapshots else []
    words += ["is gone"] if cell.state == "memory gone" else []
    return words


def restored_kind(cell: Cell) -> str:
    """The kind of the subject when it is restored, as VirtualBox writes it."""
    kinds = {"immutable": "Immutable", "multiattach": "MultiAttach", "writethrough": "Writethrough"}
    return kinds.get(cell.kind, "Normal")
