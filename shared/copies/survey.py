"""The VMs whose copies are on the NAS, by what lies there alone: no database is asked.

Every directory at the top of the NAS and of the archive is read, and its copies are told apart by
the UUID in their sidecars. What a sidecar says is validated here: somebody else may have written
it. Nothing is changed, and nothing is concluded: which copy counts is said by `catalogue`, which is
newer by `chronology`.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from uuid import UUID

from shared.copies import catalogue, chronology, claim_numbers
from shared.copies.catalogue import Catalogue, Copy
from shared.copies.names import safe_directory_name
from shared.copies.sidecar import Sidecar
from shared.host.configuration import Nas
from shared.host.errors import VmBackupError
from shared.nas.nas_errors import reported
from shared.nas.overlap import first_name_below
from shared.nas.reading import look_at_top
from shared.nas.spelling import folded
from shared.state.record_fields import is_directory_name

#: What NAS systems and people hide is no VM's directory: no name that we choose begins so.
_HIDDEN: Final = "."


@dataclass(frozen=True, slots=True)
class CopiesPlace:
    """A directory with copies of one VM; `archived`: it lies in the archive.

    `catalogue` is what is in it, with the copies of all other VMs marked as not `ours`; `shared` is
    whether there are some.
    """

    path: Path
    archived: bool
    catalogue: Catalogue
    shared: bool = False

    @property
    def directory(self) -> str:
        """Its name, as records name the directory of a VM."""
        return self.path.name

    @property
    def copies(self) -> tuple[Copy, ...]:
        """The copies of this VM, good or not, oldest first.

        One that does not say whose it is counts as this VM's if no other VM has copies there.
        """
        return tuple(
            copy
            for copy in self.catalogue.copies
            if copy.ours and copy.present and (copy.sidecar is not None or not self.shared)
        )

    @property
    def half_published(self) -> tuple[str, ...]:
        """The stamps whose publication was begun, and not finished: sorted.

        Their sidecar has its final name already, their `.ova` is still partial.
        """
        waiting = {item.partial.stamp for item in self.catalogue.partials if _is_ova(item)}
        begun = {copy.stamp for copy in self.catalogue.copies if copy.ours and not copy.present}
        return tuple(sorted(waiting & begun))


@dataclass(frozen=True, slots=True)
class FoundVm:
    """A VM as its copies tell of it. `uuid` is in small letters; `places` are never empty.

    Its name, and the host that made the copy, are those of its newest copy: a VM may have been
    renamed, and moved to another host.
    """

    uuid: str
    places: tuple[CopiesPlace, ...]

    @property
    def copies(self) -> list[tuple[Copy, CopiesPlace]]:
        """All its copies, good or not, in all places, oldest first."""
        found = [(copy, place) for place in self.places for copy in place.copies]
        places = {id(copy): place for copy, place in found}
        return [
            (copy, places[id(copy)]) for copy in chronology.oldest_first(copy for copy, _ in found)
        ]

    @property
    def newest_sidecar(self) -> Sidecar:
        """That of its newest good copy; without one, of its newest copy that has a sidecar."""
        everywhere = [copy for place in self.places for copy in place.catalogue.copies if copy.ours]
        found = [
            (copy.good, copy.sidecar)
            for copy in chronology.oldest_first(everywhere)
            if copy.sidecar is not None
        ]
        return next((sidecar for good, sidecar in reversed(found) if good), found[-1][1])

    @property
    def name(self) -> str:
        """What it was called, as VirtualBox said it: any text."""
        return self.newest_sidecar.vm

    @property
    def node(self) -> str:
        """The host, as the database knew it, that made its newest copy: any text."""
        return self.newest_sidecar.node

    @property
    def directories(self) -> tuple[str, ...]:
        """The names of its directories, the likeliest to be its own first.

        More than one: somebody has put copies elsewhere, and one of them is the VM's. First come
        those where its newest good copy lies; of these the one that is named after the VM, as it is
        called or else was when older copies were made, then the one with the most copies.
        """
        found, named = self.copies, self._named_after_it
        newest = [copy.stamp for copy, _ in found if copy.good][-1:]
        latest = {place.directory for copy, place in found if copy.stamp in newest}
        counts = Counter(place.directory for _, place in found)

        def key(own: str) -> tuple[bool, int, int, str]:
            return own not in latest, named.get(folded(own), len(named)), -counts[own], own

        return tuple(sorted({place.directory for place in self.places}, key=key))

    @property
    def _named_after_it(self) -> Mapping[str, int]:
        """Folded names that its directory may have got, plain or with UUID: how many names ago."""
        older = [copy.sidecar.vm for copy, _ in reversed(self.copies) if copy.sidecar]
        called = dict.fromkeys((self.name, *older))
        plain = [(name, safe_directory_name(name, (), self.uuid)) for name in called]
        likely = [(own, safe_directory_name(name, (own,), self.uuid)) for name, own in plain]
        ages = [(folded(name), age) for age, names in enumerate(likely) for name in names]
        return dict(reversed(ages))

    @property
    def pinned(self) -> tuple[str, ...]:
        """The stamps of its pinned copies, oldest first."""
        return tuple(dict.fromkeys(copy.stamp for copy, _ in self.copies if copy.pinned))

    @property
    def half_published(self) -> tuple[str, ...]:
        """The stamps whose publication was begun, and not finished: sorted."""
        return tuple(sorted({stamp for place in self.places for stamp in place.half_published}))

    @property
    def highest_claim(self) -> int:
        """The highest number of a claim in the names of files in its directories; 0: none."""
        return claim_numbers.highest_claim(place.path for place in self.places)


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found: `vms` by UUID in small letters.

    `unknown` are places with what may be copies, or with partial files, of which no sidecar tells
    whose they are: their copies are those. `problems` say where one could not look.
    """

    vms: Mapping[str, FoundVm]
    unknown: tuple[CopiesPlace, ...] = ()
    problems: tuple[str, ...] = ()


def survey(nas: Nas, *, archive: bool, besides: Collection[str] = ()) -> Survey:
    """Looks at all VM directories of the NAS, and of the archive with `archive`.

    `besides`: the names of directories that need not be looked at.

    The caller has made sure that both are mounted and the right ones. Reads the sidecars, not the
    copies; writes nothing. What is not a plain directory, is hidden, or is ours (`vmstate`, the
    archive) is passed over. Raises `NasError` if a top directory cannot be listed.
    """
    problems: list[str] = []
    places: dict[str, list[CopiesPlace]] = {}
    unknown: list[CopiesPlace] = []
    for path, archived in _directories(nas, besides, archive=archive):
        try:
            found = catalogue.read(path, None)
        except VmBackupError as error:
            problems.append(error.message)
            continue
        whole = CopiesPlace(path, archived, found)
        uuids = sorted({uuid for copy in found.copies if (uuid := _uuid(copy.sidecar))})
        for uuid in uuids:
            own = replace(whole, catalogue=found.of(uuid), shared=len(uuids) > 1)
            places.setdefault(uuid, []).append(own)
        if rest := _nobodys(whole, uuids):
            unknown.append(rest)
    vms = {uuid: FoundVm(uuid, tuple(places[uuid])) for uuid in sorted(places)}
    return Survey(vms, tuple(unknown), tuple(problems))


def _directories(nas: Nas, besides: Collection[str], *, archive: bool) -> list[tuple[Path, bool]]:
    passed = {folded(name) for name in besides}
    with reported(f"look for copies in {nas.mountpoint}"):
        ours = {nas.state.name, *first_name_below(nas.mountpoint, nas.archive)}
        found = [(path, False) for path in _plain(nas.mountpoint, passed | set(map(folded, ours)))]
    if archive:
        with reported(f"look for copies in {nas.archive}"):
            found += [(path, True) for path in _plain(nas.archive, passed)]
    return found


def _plain(parent: Path, passed: Collection[str]) -> list[Path]:
    entries = look_at_top(parent)
    return [
        parent / name
        for name in sorted(entries)
        if entries[name].is_directory
        and folded(name) not in passed
        and not name.startswith(_HIDDEN)
        and is_directory_name(name)
    ]


def _uuid(sidecar: Sidecar | None) -> str:
    """The UUID that a sidecar names, in small letters; empty if it is none."""
    if sidecar is None:
        return ""
    try:
        canonical = str(UUID(sidecar.uuid))
    except ValueError:
        return ""
    return canonical if canonical == sidecar.uuid.lower() else ""


def _nobodys(place: CopiesPlace, uuids: Collection[str]) -> CopiesPlace | None:
    """What of a directory is in the places of none of these VMs; None if nothing is."""
    left = tuple(
        copy
        for copy in place.catalogue.copies
        if not _uuid(copy.sidecar) and (copy.sidecar is not None or len(uuids) != 1)
    )
    if not left and (uuids or not place.catalogue.partials):
        return None
    partials = () if uuids else place.catalogue.partials
    return replace(place, catalogue=replace(place.catalogue, copies=left, partials=partials))


def _is_ova(item: catalogue.PartialFile) -> bool:
    return item.partial.suffix == "ova"
