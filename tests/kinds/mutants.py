"""Programs from which one kind of guard was taken away. The table must find each."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.kinds.axes import LONG, Cell
from tests.support.fleet import Member

_PROGRAMS: Final = {
    "vmbackup-worker": "worker.cli:main",
    "vmbackup-admin": "coordinator.admin:main",
}


@dataclass(frozen=True)
class Mutant:
    """What is taken away: an attribute of a module. And the cell that finds it."""

    module: str
    name: str
    instead: Callable[..., Any]
    cell: Cell

    def apply(self) -> None:
        """In the process of a program, before it begins."""
        module = importlib.import_module(self.module)
        assert hasattr(module, self.name), self
        setattr(module, self.name, self.instead)


def _nothing(*_: Any, **__: Any) -> None:
    """Instead of a refusal."""


def _unchanged(value: Any, *_: Any, **__: Any) -> Any:
    return value


_METHOD: Final = "worker.backup.method"
_PUT_BACK: Final = "shared.virtualbox.put_back"
_USB_CD: Final = Cell(medium="usb iso")
MUTANTS: Final[dict[str, Mutant]] = {
    "a CD on USB is noticed by the export": Mutant(
        *(_METHOD, "refuse_filled_usb_drive", _nothing),
        Cell(medium="usb iso", state="running"),
    ),
    "a CD on USB stays in the clone": Mutant(
        "worker.backup.live", "eject_from_clone", lambda *_: False, _USB_CD
    ),
    "a CD on USB needs no clone": Mutant(_METHOD, "filled_usb_drives", lambda *_: (), _USB_CD),
    "disks that no snapshot freezes are cloned": Mutant(
        *(_METHOD, "refuse_unfrozen", _nothing),
        Cell(kind="writethrough", state="running", running="live"),
    ),
    "a disk that is gone is noticed by the export": Mutant(
        _METHOD, "refuse_unexportable", _nothing, Cell(state="disk gone", medium="iso")
    ),
    "a long name needs no clone": Mutant(
        _METHOD, "has_long_name", lambda _: False, Cell(name=LONG)
    ),
    "long descriptions are exported": Mutant(
        *("shared.virtualbox.export_words", "_fits", lambda _: True),
        Cell(description="né <&>\n" * 2000),
    ),
    "SCSI and SAS are exported as they are": Mutant(
        *("shared.ova.scsi", "on_one_controller", _unchanged),  # by either engine
        Cell(controller="scsi+sas"),
    ),
    "kinds of disks do not come back": Mutant(
        _PUT_BACK, "_kinds", lambda *_: ((), ()), Cell(kind="immutable")
    ),
    "texts do not come back": Mutant(
        _PUT_BACK, "_put_texts_back", _nothing, Cell(description="né <&>\n" * 2000)
    ),
    "images in drives do not come back": Mutant(
        _PUT_BACK, "image_drives", lambda _: (), Cell(medium="iso")
    ),
    "what reaches into the host comes back": Mutant(
        _PUT_BACK, "host_access", lambda *_: [], Cell(serial="server")
    ),
    "a copy does not say what it has not": Mutant(
        "worker.backup.side_file_keeping", "parts_left_out", lambda _: (), Cell(medium="iso")
    ),
}


class MutantMember(Member):
    """A host whose programs are those of a mutant."""

    mutant: str = ""

    @property
    def bin(self) -> Path:
        """Where its programs are, which are written when they are asked for."""
        folder = self.fleet.folder / f"bin-{self.name}"
        folder.mkdir(exist_ok=True)
        root = Path(__file__).parents[2]
        for program, entry in _PROGRAMS.items():
            module, _, function = entry.partition(":")
            script = folder / program
            lines = [
                f"#!{sys.executable}",
                f"import sys; sys.path.insert(0, {str(root)!r})",
                "from tests.kinds.mutants import MUTANTS",
                f"MUTANTS[{self.mutant!r}].apply()" if self.mutant else "",
                f"from {module} import {function}",
                f"sys.exit({function}())",
            ]
            script.write_text("\n".join(lines) + "\n", encoding="utf-8")
            script.chmod(0o755)
        return folder
