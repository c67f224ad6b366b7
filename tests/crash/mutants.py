"""Programs with one fault each, which the crash points must find.

A suite that finds nothing proves nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Mutant:
    """`fault` says what is wrong with the program after `apply`.

    `scenario` finds it, at points that have `where` in their name.
    """

    fault: str
    scenario: str
    apply: Callable[[], None]
    where: str = ""
    every: int = 4


def _never(module: str, name: str, answer: Any = None) -> Callable[[], None]:
    """Makes a function of the product do nothing."""

    def apply() -> None:
        import importlib

        owner: Any = importlib.import_module(module)
        *path, last = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        assert hasattr(owner, last)
        setattr(owner, last, lambda *_, **__: answer)

    return apply


def _retention_first() -> None:
    from shared.tasks import publication

    original, retain = publication.publishing.publish, publication._let_go_of_old_copies

    def finish_wrongly(files: Any, directory: Any, copy: Any) -> Any:
        from shared.copies import catalogue
        from shared.copies.retention import Rules, apply

        sidecar = catalogue.read(directory, None).good[-1].sidecar
        assert sidecar
        apply(files, directory, sidecar.uuid, Rules(keep_last=1))
        return original(files, directory, copy)

    publication.publishing.publish = finish_wrongly  # type: ignore[assignment]
    assert retain


def _no_intent() -> None:
    from worker.backup import attempt

    def publish(self: Any, sidecar: Any, *_: Any) -> bool:
        from dataclasses import replace

        from shared.copies import publishing
        from shared.state.records import CopyRecord
        from shared.state.rules import backup, claims

        copy = CopyRecord(
            sidecar.stamp,
            sidecar.claim,
            sidecar.size,
            sidecar.sha256,
            sidecar.finished,
            sidecar.fingerprint,
        )
        held = self._held
        publishing.publish(self._site.files, self._target.directory, copy)

        def clean(contents: Any) -> Any:
            record = replace(claims.held(contents, held.key, held.claim), publishing=copy)
            return backup.published(contents.with_vm(record), held.key, held.claim)

        held.commit(clean, "published without an intent")
        return True

    attempt.Attempt._publish = publish  # type: ignore[method-assign]


def _commit_in_place() -> None:
    """The view is written where it stands instead of being replaced."""
    from shared.state.store.state_files import StateFiles

    def replace_view(self: StateFiles, name: str) -> None:
        import os

        data = self.temporary(name).read_bytes()
        descriptor = os.open(self.root / "vmtool-statedb", os.O_WRONLY | os.O_CREAT, 0o660)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)
        os.close(descriptor)
        os.unlink(self.temporary(name))

    StateFiles.replace_view = replace_view  # type: ignore[method-assign]


def _removed_not_set_aside() -> None:
    import shutil

    from shared.state.store import exchange

    rename = exchange._rename

    def remove(source: Any, target: Any, clock: Any) -> bool:
        if source.name == "vmstate":
            shutil.rmtree(source)
            target.mkdir()
            return True
        return rename(source, target, clock)

    exchange._rename = remove


def _before_the_bundle_is_there() -> None:
    from shared.state.store.history_files import HistoryFiles

    put = HistoryFiles.put_bundle

    def put_wrongly(self: HistoryFiles, name: Any, data: bytes) -> None:
        for number in range(name.first, name.last + 1):
            self.remove(number)
        put(self, name, data)

    HistoryFiles.put_bundle = put_wrongly  # type: ignore[method-assign]


def _settings_first() -> None:
    from coordinator.booting import removing

    own_files = removing._own_files

    def own_files_wrongly(*arguments: Any) -> Any:
        return sorted(own_files(*arguments), key=lambda file: file.suffix != ".vbox")

    removing._own_files = own_files_wrongly


def _whole_too_early() -> None:
    from coordinator.booting.keeping import Keeper

    fill = Keeper._fill_and_settle

    def fill_wrongly(self: Keeper) -> None:
        self._note.whole.write({"stamp": self._note.stamp, "index": self._note.index})
        fill(self)

    Keeper._fill_and_settle = fill_wrongly  # type: ignore[method-assign]


MUTANTS: Final = {
    "a disk is said to be whole before it is filled": Mutant(
        "a disk gets its name with a hole in it",
        "the server of disks, while it fills and settles",
        _whole_too_early,
        "write vms/trial/filling/trial-disk",
        3,
    ),
    "settings go before the disks that they name": Mutant(
        "nobody knows any more what was made for a VM that is thrown away",
        "boot --discard",
        _settings_first,
        "unlink vms/trial/Snapshots",
        1,
    ),
    "generations go before their bundle is there": Mutant(
        "what is bundled is lost for a moment",
        "database: old generations are bundled",
        _before_the_bundle_is_there,
        "history",
        1,
    ),
    "no anchor": Mutant(
        "old bundles go, and nothing says so",
        "database: old bundles go",
        _never("shared.state.store.history_files", "HistoryFiles.put_anchor"),
        "history",
        1,
    ),
    "copies go before the new one is there": Mutant(
        "retention before publication",
        "database: a publication is finished",
        _retention_first,
        "retention",
    ),
    "no intent": Mutant(
        "a copy is published without an intent", "backup", _no_intent, "publishing._settle", 1
    ),
    "leftovers stay": Mutant(
        "partial files of dead workers stay",
        "database: a dead export is cleared away",
        _never("worker.database", "remove_partial_files", []),
    ),
    "publications are not finished": Mutant(
        "an intent stays open",
        "database: a publication is finished",
        _never("worker.database", "_publish", True),
    ),
    "nothing is swept": Mutant(
        "heartbeats and temporary files stay",
        "notifier",
        _never("shared.state.sessions.sweeping", "sweep", []),
    ),
    "moves are not finished": Mutant(
        "an archive stays half done",
        "database: an archive is finished",
        _never("worker.database", "_move", True),
    ),
    "what cannot be read is removed": Mutant(
        "a database that is made anew takes the place of the old one, of which nothing is left",
        "rebuild",
        _removed_not_set_aside,
        "exchange.put_in_place",
        16,
    ),
    "the view is written in place": Mutant(
        "readers see half a view", "notifier", _commit_in_place, "vmtool-statedb", 1
    ),
}
