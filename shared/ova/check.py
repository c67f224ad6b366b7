"""Whether an `.ova` is whole: every member there, every digest right, in one pass over the file.

Found (and tested) is all that damage of which VirtualBox's own import notices only part: single
bits anywhere, a manifest that is cut off, garbled or missing, a file that was cut off anywhere. The
digest of the whole file, for the sidecar, comes from the same pass.
"""

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol, Self

from shared.host.errors import CopyError
from shared.host.rate_limit import UNLIMITED, Pace
from shared.nas.nas_errors import reported
from shared.nas.reading import opened_fresh
from shared.ova.manifest import (
    MANIFEST_LIMIT,
    ManifestDigest,
    left_out_by_virtualbox,
    listed_sizes,
    parse_manifest,
)
from shared.ova.ovf import OVF_LIMIT, references
from shared.ova.tar import TarMember, members
from shared.ova.vmdk_check import VmdkCheck

Progress = Callable[[int, int], None]

_PIECE: Final = 1 << 20


class CheckStoppedError(CopyError):
    """The check was given up because its caller wanted it so."""


@dataclass(frozen=True, slots=True)
class OvaCheck:
    """What a whole `.ova` is: digest and size of the file, its members in order.

    `unlisted` are members without a digest, because VirtualBox leaves some names out of its
    manifest, or because nobody has read them as a whole; disks among them were checked grain by
    grain instead. `sha256` is empty if not all of the file was read.
    """

    sha256: str
    size: int
    members: tuple[TarMember, ...]
    unlisted: tuple[str, ...] = ()


class Sink(Protocol):
    """Takes bytes one piece after the other; each is good only until this returns."""

    def update(self, data: memoryview, /) -> None:
        """The next bytes."""


def check_ova(
    directory: Path,
    name: str,
    *,
    progress: Progress = lambda _done, _total: None,
    should_stop: Callable[[], bool] = lambda: False,
    sinks: Mapping[str, Sink] = MappingProxyType({}),
    pace: Pace = UNLIMITED,
) -> OvaCheck:
    """Reads the whole file once. Raises `CopyError` with the precise reason if it is damaged.

    `progress` is told bytes done and bytes in all, a megabyte at a time; when `should_stop` says
    so, `CheckStoppedError` ends the check. `sinks` get the bytes of the members of these names,
    before it is known whether they are right. It is read no faster than `pace` says. Raises
    `NasError` if the file cannot be read. What is read comes from the server as far as the system
    allows: pages that this machine still holds from writing the file are dropped first (call fsync
    before, or they stay). Memory is bounded by 20 MiB.
    """
    with reported(f"read {name}"), opened_fresh(directory, name) as descriptor:
        found = members(descriptor)
        digests, unlisted = read_description(descriptor, found)
        checks = [
            _MemberCheck(member, digests.get(member.name), sinks.get(member.name))
            for member in found
        ]
        whole = hashlib.sha256()
        size = os.fstat(descriptor).st_size
        with _InParallel(whole) as parallel:
            for position, piece in _pieces(descriptor, size, progress, should_stop, pace):
                parallel.update(piece)
                for check in checks:
                    check.feed(position, piece)
                parallel.wait()
        for check in checks:
            check.finish()
    return OvaCheck(whole.hexdigest(), size, found, unlisted)


def sha256_of(
    directory: Path,
    name: str,
    *,
    progress: Progress = lambda _done, _total: None,
    should_stop: Callable[[], bool] = lambda: False,
    pace: Pace = UNLIMITED,
) -> str:
    """The SHA-256 of a file, read from the server; arguments and errors as in `check_ova`."""
    whole = hashlib.sha256()
    with reported(f"read {name}"), opened_fresh(directory, name) as descriptor:
        size = os.fstat(descriptor).st_size
        for _, piece in _pieces(descriptor, size, progress, should_stop, pace):
            whole.update(piece)
    return whole.hexdigest()


def read_description(
    descriptor: int, found: tuple[TarMember, ...]
) -> tuple[dict[str, ManifestDigest], tuple[str, ...]]:
    """Checks the names in the manifest and in the .ovf against those of the members.

    Returns the digests to compare, and the members that have none. Raises `CopyError`.
    """
    if not found or not found[0].name.endswith(".ovf"):
        raise CopyError("the first member is no .ovf")
    listed = [member for member in found if member.name.endswith(".mf")]
    if len(listed) != 1:
        raise CopyError(
            f"there are {len(listed)} manifests instead of one"
            if listed
            else "there is no manifest: cut off, or exported without it"
        )
    names = {member.name for member in found}
    manifest = _content(descriptor, listed[0], MANIFEST_LIMIT)
    digests, sizes = parse_manifest(manifest), listed_sizes(manifest)
    if lost := sorted(digests.keys() - names):
        raise CopyError(f"{lost[0]!r} is in the manifest, but not in the file")
    unlisted = [
        member for member in found if member.name not in digests and member is not listed[0]
    ]
    for member in unlisted:
        if member is found[0] or not (
            sizes.get(member.name) == member.size or left_out_by_virtualbox(member.name)
        ):
            raise CopyError(f"the manifest has no digest of {member.name!r}")
    if lost := sorted(references(_content(descriptor, found[0], OVF_LIMIT)) - names):
        raise CopyError(f"the .ovf refers to {lost[0]!r}, which is not in the file")
    return digests, tuple(member.name for member in unlisted)


def _content(descriptor: int, member: TarMember, limit: int) -> bytes:
    if member.size > limit:
        raise CopyError(f"{member.name!r} is impossibly long ({member.size} bytes)")
    data = os.pread(descriptor, member.size, member.position)
    if len(data) != member.size:
        raise CopyError(f"{member.name!r} is cut off")
    return data


def feed(sink: Sink, member: TarMember, position: int, piece: memoryview) -> None:
    """Gives `sink` what `piece`, which is at `position` of the `.ova`, has of a member."""
    start = max(member.position, position)
    end = min(member.position + member.size, position + len(piece))
    if start < end:
        sink.update(piece[start - position : end - position])


class _MemberCheck:
    """Takes the pieces of the whole file and keeps to those of one member."""

    def __init__(self, member: TarMember, digest: ManifestDigest | None, sink: Sink | None) -> None:
        self._member = member
        self._digest = digest
        self._hash = hashlib.new(digest.algorithm) if digest else None
        self._disk = (
            VmdkCheck(member.name) if digest is None and member.name.endswith(".vmdk") else None
        )
        self._sinks: list[Sink] = [
            each for each in (self._hash or self._disk, sink) if each is not None
        ]

    def feed(self, position: int, piece: memoryview) -> None:
        for sink in self._sinks:
            feed(sink, self._member, position, piece)

    def finish(self) -> None:
        if self._disk:
            self._disk.finish()
        if self._hash and self._digest and self._hash.hexdigest() != self._digest.value:
            raise CopyError(
                f"the {self._digest.algorithm.upper()} digest of {self._member.name!r} is "
                f"wrong: the member or the manifest is damaged"
            )


class _InParallel:
    """Feeds one hash in a thread of its own.

    The two digests of each byte then cost the time of one (measured: 1.65 for 0.88 GB/s).
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="digest")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)

    def update(self, piece: memoryview) -> None:
        self._pending = self._pool.submit(self._sink.update, piece)

    def wait(self) -> None:
        if self._pending:
            self._pending.result()


def _pieces(
    descriptor: int, size: int, progress: Progress, should_stop: Callable[[], bool], pace: Pace
) -> Iterator[tuple[int, memoryview]]:
    """Position and bytes of each piece; a piece is good until the next one is asked for."""
    # Whole pages: some processors copy five times as slowly to 16 bytes behind the start of one,
    # where an array of this length begins.
    buffer = mmap.mmap(-1, _PIECE)
    position = 0
    while position < size:
        pace.wait(min(_PIECE, size - position))
        if should_stop():
            raise CheckStoppedError("the check was stopped")
        length = os.readv(descriptor, [buffer])
        if not length:
            raise CopyError(f"the file ended at byte {position} while it was read; it had {size}")
        yield position, memoryview(buffer)[:length]
        position += length
        progress(min(position, size), size)
