"""The history on the NAS: generations that left `gen/`, and the bundles that were made of them.

Written by the `database` worker alone. Each method performs one operation of
`shared.state.store.bundling`; all raise OSError.
"""

import contextlib
import errno
import logging
import os
import secrets
from pathlib import Path
from typing import Final

from shared.host.errors import DatabaseDamagedError
from shared.nas.reading import drop_cached, list_fresh, read_bounded, read_file
from shared.nas.writing import (
    DIRECTORY_MODE,
    make_directory,
    open_synced,
    sync_directory,
    write_new_file,
)
from shared.state.store.anchor import anchor_name, anchor_numbers
from shared.state.store.bundle import LIMIT_BYTES, BundleName, bundle_names
from shared.state.store.generations import read_bytes
from shared.state.store.header import decode_header
from shared.state.store.history_operations import Unreadable
from shared.state.store.kept_generations import OF_ONE_FILE
from shared.state.store.layout import (
    Primitive,
    generation_file,
    generation_name,
    generation_numbers,
    history_buckets,
    history_of,
    unreadable_name,
)

log: Final = logging.getLogger(__name__)

#: How often a generation is read before it counts as one that cannot be.
_READS: Final = 2
_OF_RIGHTS: Final = frozenset({errno.EACCES, errno.EPERM})


class HistoryFiles:
    """`vmstate/history` of one database."""

    def __init__(self, root: Path, primitive: Primitive) -> None:
        self._root = root
        self._directory = root / "history"
        self._primitive = primitive

    def oldest(self, count: int) -> tuple[int, ...]:
        """See `ListHistoric`: only as many directories are listed as that takes."""
        found: list[int] = []
        for bucket in history_buckets(list_fresh(self._directory)):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found += sorted(generation_numbers(list_fresh(self._directory / bucket)))
            if len(found) >= count:
                break
        return tuple(found[:count])

    def read(self, number: int) -> bytes | Unreadable | None:
        """See `ReadHistoric`."""
        return self._read(self._path(number))

    def _read(self, path: Path) -> bytes | Unreadable | None:
        found = Unreadable("nothing is in it")
        for _ in range(_READS):
            try:
                data = read_file(generation_file(path))
            except (FileNotFoundError, NotADirectoryError):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    if path.name in list_fresh(path.parent):
                        continue
                return None
            except OSError as error:
                if error.errno not in OF_ONE_FILE:
                    raise
                found = Unreadable(error.strerror or str(error), error.errno in _OF_RIGHTS)
            else:
                if len(data) <= LIMIT_BYTES:
                    return data
                found = Unreadable("it is longer than any generation")
        return found

    def checksum(self, number: int) -> str:
        """See `ReadChecksum`."""
        with contextlib.suppress(DatabaseDamagedError):
            data = read_bytes(self._root, number)
            return decode_header(data, number)[1] if data is not None else ""
        return ""

    def move_in(self, number: int) -> None:
        """See `MoveToHistory`.

        A generation that a late writer put below the window goes to `tmp/`, to be swept; what is
        none and cannot be moved so goes to `damaged/`.
        """
        directory = history_of(self._root, number)
        with contextlib.suppress(FileExistsError):
            make_directory(directory)
        source = self._root / "gen" / generation_name(number)
        with contextlib.suppress(FileNotFoundError):
            try:
                moved = source.name not in list_fresh(directory) and self._move_without_replacing(
                    source, directory / source.name
                )
            except OSError:
                if not self._set_unreadable_aside(source, number):
                    raise
            else:
                if not moved:
                    os.rename(source, self._private(f"stray.{source.name}"))

    def _move_without_replacing(self, source: Path, target: Path) -> bool:
        try:
            if self._primitive == "link":
                os.link(source, target, follow_symlinks=False)
                os.unlink(source)
            else:
                os.rename(source, target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            return False
        return True

    def bundles(self) -> tuple[BundleName, ...]:
        """See `ListBundles`."""
        return tuple(bundle_names(list_fresh(self._directory)))

    def put_bundle(self, name: BundleName, data: bytes) -> None:
        """See `PutBundle`. No other has its name, so it replaces nothing."""
        self._put(str(name), data)

    def _put(self, name: str, data: bytes) -> None:
        private = self._private("history")
        write_new_file(private, data)
        try:
            os.replace(private, self._directory / name)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(private)
            raise
        sync_directory(self._directory)

    def sync_bundle(self, name: BundleName) -> bytes | None:
        """See `SyncBundle`: what is read comes from the NAS, not from this machine's memory."""
        list_fresh(self._directory)
        try:
            file = open_synced(self._directory / str(name), foreign=True)
        except FileNotFoundError:
            return None
        with file:
            sync_directory(self._directory)
            drop_cached(file.fileno())
            return read_bounded(file, LIMIT_BYTES)

    def put_anchor(self, number: int, data: bytes) -> None:
        """See `PutAnchor`. Older ones go: the highest counts."""
        self._put(anchor_name(number), data)
        open_synced(self._directory / anchor_name(number), foreign=True).close()
        for older in anchor_numbers(list_fresh(self._directory)):
            if older < number:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._directory / anchor_name(older))

    def remove_bundle(self, name: BundleName) -> None:
        """See `RemoveBundle`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._directory / str(name))

    def remove(self, number: int) -> None:
        """See `RemoveHistoric`: in one step, so that nobody finds half of one."""
        with contextlib.suppress(FileNotFoundError):
            if self._primitive == "link":
                os.unlink(self._path(number))
                return
            aside = self._private("removed")
            os.rename(self._path(number), aside)
            os.unlink(aside / "snapshot")
            os.rmdir(aside)

    def set_aside(self, number: int) -> None:
        """See `SetHistoricAside`."""
        path = self._path(number)
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, self._private(f"stray.{path.name}"))

    def keep_unreadable(self, number: int) -> None:
        """See `KeepUnreadable`. One that can be read by now, or is gone, is left alone."""
        with contextlib.suppress(FileNotFoundError):
            self._set_unreadable_aside(self._path(number), number)

    def _set_unreadable_aside(self, path: Path, number: int) -> bool:
        """Moves what cannot be read by anybody to `damaged/`; False if it is nothing such."""
        found = self._read(path)
        if not isinstance(found, Unreadable) or found.by_this_user:
            return False
        directory = self._root / "damaged"
        os.makedirs(directory, DIRECTORY_MODE, exist_ok=True)
        target = directory / unreadable_name(number, secrets.token_hex(4))
        os.rename(path, target)
        sync_directory(directory)
        log.warning(
            "generation %d cannot be read (%s), and was set aside: %s", number, found.why, target
        )
        return True

    def remove_empty(self, below: int) -> None:
        """Removes directories whose generations all had numbers below this one and are gone."""
        for bucket in history_buckets(list_fresh(self._directory)):
            if (int(bucket) + 1) * 1000 > below:
                return
            with contextlib.suppress(OSError):  # it is not empty, or another host was faster
                os.rmdir(self._directory / bucket)

    def _path(self, number: int) -> Path:
        return history_of(self._root, number) / generation_name(number)

    def _private(self, name: str) -> Path:
        return self._root / "tmp" / f"{name}.{secrets.token_hex(6)}"
