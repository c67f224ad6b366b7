"""Programs from which one kind of guard was taken away.

The table must find each, or it proves nothing.

Most of what could be lost has more than one guard in its way; a mutant takes away as many as stand
before the same loss.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.ordinary.table import Cell

#: Module, attribute in it, and what is put in the attribute's place, given what was there.
Patch = tuple[str, str, Callable[[Any], Any]]


def _answers(value: Any = None) -> Callable[[Any], Any]:
    return lambda _: lambda *_arguments, **_options: value


def _numbers_only(_: Any) -> Any:
    """The order of copies as if only the number of the claim told it."""
    return lambda one, other: ((one.claim > other.claim) - (one.claim < other.claim), 0, 0)


def _nothing_protected(real: Any) -> Any:
    return lambda copies, **_: real(copies)


def _by_name(_: Any) -> Any:
    return lambda snapshots, made: next(
        (snapshot for snapshot in snapshots if snapshot.name == made.name), None
    )


@dataclass(frozen=True)
class Mutant:
    """What is taken away, and the cell that finds it.

    `from_the_start`: already while its VMs and copies are made.
    """

    patches: tuple[Patch, ...]
    cell: Cell
    from_the_start: bool = False

    def apply(self) -> None:
        """For `tests.crash.zygote`."""
        for module, name, change in self.patches:
            owner: Any = importlib.import_module(module)
            *path, last = name.split(".")
            for part in path:
                owner = getattr(owner, part)
            setattr(owner, last, change(getattr(owner, last)))


_NO_FLOOR: Final[tuple[Patch, ...]] = (
    ("shared.site", "Site.floor", _answers(0)),
    ("shared.state.numbers", "next_number", lambda _: lambda granted, _floor: granted + 1),
    ("shared.state.rules.claims", "next_number", lambda _: lambda granted, _floor: granted + 1),
    (
        "shared.state.store.create",
        "genesis",
        lambda real: lambda *arguments: real(*arguments[:3]),
    ),
)
_BY_NUMBER: Final[Patch] = ("shared.copies.chronology", "signs", _numbers_only)

MUTANTS: Final = {
    "copies of any UUID count": Mutant(
        (
            ("shared.copies.catalogue", "is_of", _answers(True)),
            (
                "worker.new_directories",
                "NewDirectories.choose",
                lambda _: lambda _self, name, _uuid: name,
            ),
        ),
        Cell("inside", "run", "new", "forgotten and made anew"),
        from_the_start=True,
    ),
    "one directory under two names is two": Mutant(
        (
            ("shared.copies.archive_location", "require_apart", _answers()),
            ("shared.copies.archive_location", "prove_apart", _answers()),
            ("shared.copies.archive_marker", "require_apart", _answers()),
            ("shared.copies.archive_marker", "require_no_vm", _answers()),
            ("shared.copies.archive_marker", "check_archive", _answers(True)),
            ("shared.copies.known_archive", "require_no_vm", _answers()),
            ("shared.tasks.archiving", "require_apart", _answers()),
            ("shared.tasks.archiving", "prove_apart", _answers()),
            ("shared.copies.copy_files", "same_directory", _answers(False)),
            ("shared.copies.source_removal", "_one_file", _answers(False)),
        ),
        Cell("the NAS mounted twice", "archive"),
    ),
    "numbers begin anew": Mutant((*_NO_FLOOR, _BY_NUMBER), Cell("inside", "run", "lost")),
    "the copy just published may go": Mutant(
        (*_NO_FLOOR, _BY_NUMBER, ("shared.copies.protection", "must_stay", _nothing_protected)),
        Cell("inside", "run", "lost"),
    ),
    "what a live backup made is known by its name": Mutant(
        (
            ("shared.virtualbox.scratch", "new_token", _answers("2")),
            ("shared.virtualbox.live_clone", "Clones.refuse_taken", _answers()),
            ("worker.backup.undo", "find_snapshot", _by_name),
        ),
        Cell("inside", "run live", "new", "like ours"),
    ),
    "an archive without its marker is one": Mutant(
        (
            ("shared.copies.archive_marker", "check_archive", _answers(True)),
            ("shared.tasks.vm_copies", "require_directory", _answers()),
        ),
        Cell("a mount that goes", "verify"),
    ),
}
