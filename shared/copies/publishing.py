"""Publish a copy: bring its partial files to the disk, then give them their final names.

The order that keeps every promise, where COMMIT is a commit of the state database under the
caller's claim:

    export and verify  ->  `seal`  ->  COMMIT the intent to publish  ->  `publish`  ->  COMMIT done

Before the intent a crash leaves partial files, which `remove_partials` removes when the claim is
dead. After it anybody may call `publish`, as often as it takes: it does what is left to do, and
what it did stays done.
"""

import contextlib
import errno
from pathlib import Path
from typing import Final, Protocol

from shared.copies import sidecar as sidecars
from shared.copies import sidecar_files
from shared.copies.copy_files import NasFiles, write_file
from shared.copies.first_reading import is_whole
from shared.copies.names import SIDES, Suffix, final_name, partial_name
from shared.copies.side_files import missing
from shared.copies.sidecar import Sidecar
from shared.copies.sidecar_fields import SideFile
from shared.host.errors import CopyError, NasError
from shared.nas.nas_errors import reported
from shared.nas.reading import Entry, look, look_twice, present, read_file
from shared.ova.check import sha256_of

#: How often a directory is looked at again when a rename was answered with an error that may be
#: wrong.
_ROUNDS: Final = 12
#: Answers to a rename which another look will explain: another process was first, or the request
#: was repeated.
_LOOK_AGAIN: Final = frozenset({errno.ENOENT, errno.ESTALE, errno.EEXIST})


class Publication(Protocol):
    """What is to be published: the intent in the state database, or anything that says as much."""

    @property
    def stamp(self) -> str:
        """The copy's stamp."""

    @property
    def claim(self) -> int:
        """The claim that wrote the partial files."""

    @property
    def size(self) -> int:
        """Bytes of the `.ova`."""

    @property
    def sha256(self) -> str:
        """Digest of the `.ova`; empty if it was not read in full."""

    @property
    def seal(self) -> str:
        """Digest of what it is made of then."""


def seal(files: NasFiles, directory: Path, sidecar: Sidecar) -> None:
    """Bring the partial files of a verified export to the disk, and write its sidecar.

    Call it under the claim that wrote them. May be repeated. Raises `CopyError` if the partial
    `.ova` and side files are not there with the sizes that the sidecar says, `NasError` if the NAS
    refuses.
    """
    stamp, claim = sidecar.stamp, sidecar.claim
    ova = partial_name(stamp, claim, "ova")
    with reported(f"finish {ova}"):
        entries = look(directory)
        if not present(entries, ova) or entries[ova].size != sidecar.size:
            raise CopyError(f"{ova} is not there with its {sidecar.size} bytes")
        if lost := missing(entries, stamp, sidecar.needed_files, claim=claim):
            raise CopyError(f"{ova}: {lost}")
        files.set_mode(directory, ova)
        files.sync_file(directory, ova)
        if present(entries, index := partial_name(stamp, claim, "index")):
            files.set_mode(directory, index)
        texts: dict[Suffix, bytes] = {"json": sidecar.render(), "sha256": sidecar.checksum_lines()}
        for suffix, data in texts.items():
            name = partial_name(stamp, claim, suffix)
            files.remove(directory, name)
            write_file(files, directory, name, data)
        files.sync_directory(directory)


def publish(files: NasFiles, directory: Path, publication: Publication) -> Sidecar:
    """Rename sealed partial files to their final names.

    Sidecar, index, side files, at last the `.ova`: from then on the copy counts. May be run by
    several processes at once, and again after a crash at any point: all end with the copy published
    once. Nothing that is there under a final name is replaced: raises `CopyError` if it is another
    copy's, if a partial file is not what the intent says, or if there is nothing to publish. Raises
    `NasError` if the NAS refuses; then call it again.
    """
    with reported(f"publish {publication.stamp}"):
        _settle(files, directory, publication, "json")
        sidecar = _expected(directory, publication, final_name(publication.stamp, "json"))
        if "index" not in sidecar.needed_files:
            _settle_index(files, directory, publication)
        present = [suffix for suffix in (*SIDES, "index") if suffix in sidecar.needed_files]
        for suffix in (*present, "sha256", "ova"):
            _settle(files, directory, publication, suffix, sidecar)
        files.sync_directory(directory)
        entries = look_twice(directory)
    ova = entries.get(final_name(publication.stamp, "ova"))
    if ova is None:
        raise NasError(
            f"the NAS said that the copy {publication.stamp} is in place, and it is not",
            hint="the next worker tries again",
        )
    if ova.size != publication.size:
        raise CopyError(f"{ova.name} has {ova.size} bytes instead of {publication.size}")
    if lost := missing(entries, publication.stamp, sidecar.needed_files):
        raise CopyError(f"{ova.name} is in place, but {lost}")
    return sidecar


def _settle(
    files: NasFiles,
    directory: Path,
    publication: Publication,
    suffix: Suffix,
    sidecar: Sidecar | None = None,
) -> None:
    """Rename one file: look, and do one step, until only the final name is there."""
    source, target = (
        partial_name(publication.stamp, publication.claim, suffix),
        final_name(publication.stamp, suffix),
    )
    refused: OSError | None = None
    for _ in range(_ROUNDS):
        entries = look_twice(directory)
        _refuse_strange(entries, source, target)
        if source not in entries:
            if target in entries or suffix == "sha256":
                return
            if refused is None:
                raise CopyError(
                    f"there is nothing to publish: neither {target} nor {source} is there"
                )
        try:
            if target in entries:
                _refuse_different(
                    directory,
                    entries,
                    source,
                    target,
                    _bytes_of(publication, suffix, sidecar),
                    sidecar if suffix == "ova" else None,
                )
                files.remove(directory, source)
            elif source in entries:
                if suffix == "json":
                    _expected(directory, publication, source)
                _refuse_unexpected(entries[source], _bytes_of(publication, suffix, sidecar))
                files.rename(directory, source, target)
        except OSError as error:
            if error.errno not in _LOOK_AGAIN:
                raise
            refused = error
    raise refused or NasError(
        f"{target} does not appear, although the NAS says that it was renamed",
        hint="the next worker tries again",
    )


def _settle_index(files: NasFiles, directory: Path, publication: Publication) -> None:
    """Rename the index. One that cannot be renamed is not missed.

    It serves the next export alone, which finds out whether it is right.
    """
    source = partial_name(publication.stamp, publication.claim, "index")
    with contextlib.suppress(OSError):
        if present(look(directory), source):
            files.rename(directory, source, final_name(publication.stamp, "index"))


def _refuse_strange(entries: dict[str, Entry], *names: str) -> None:
    for name in names:
        if name in entries and not entries[name].is_file:
            raise CopyError(
                f"{name} is no ordinary file",
                hint="nothing was written there: find out who put it there, and remove it",
            )


def _bytes_of(publication: Publication, suffix: Suffix, sidecar: Sidecar | None) -> SideFile | None:
    """Size and digest that a file must have, as far as intent and sidecar say."""
    if suffix == "ova":
        return SideFile(publication.size, publication.sha256)
    return sidecar.needed_files.get(suffix) if sidecar else None


def _refuse_different(
    directory: Path,
    entries: dict[str, Entry],
    source: str,
    target: str,
    expected: SideFile | None,
    ova_of: Sidecar | None,
) -> None:
    """Make sure, where both names are there, that the final one is the copy itself.

    A server has repeated a rename as a copy, or somebody has planted a file. `ova_of` is the
    sidecar if it is the `.ova` itself.
    """
    if expected:
        same = entries[target].size == expected.size and (
            is_whole(directory, target, ova_of)
            if ova_of and not ova_of.read_in_full
            else sha256_of(directory, target) == expected.sha256
        )
    else:
        partial, final = (
            read_file(directory / name, sidecars.LIMIT_BYTES, follow=False)
            for name in (source, target)
        )
        same = partial == final
    if not same:
        raise CopyError(
            f"{target} exists already and is something else",
            hint="move it away; the partial file beside it is the verified copy",
        )


def _refuse_unexpected(source: Entry, expected: SideFile | None) -> None:
    """The partial file must be what the intent was committed for."""
    if expected and source.size != expected.size:
        raise CopyError(f"{source.name} has {source.size} bytes instead of {expected.size}")


def _expected(directory: Path, publication: Publication, name: str) -> Sidecar:
    sidecar = sidecar_files.read_named(directory, name, publication.stamp)
    found = (sidecar.size, sidecar.sha256, sidecar.seal)
    if found != (publication.size, publication.sha256, publication.seal):
        raise CopyError(f"{name} is not the sidecar that was to be published")
    return sidecar
