"""What is there: copies, VMs with their disks, the state database and everything else, read by this
module's own means.

It shares no code with the product, not even a name: a fault that both had would be seen by neither.
Contents are compared, never messages.
"""

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_STAMP = r"[0-9]{8}T[0-9]{6}Z-[0-9]+"
#: What a file of a copy is called.
OF_A_COPY = re.compile(rf"{_STAMP}\.(ova|json|sha256|vbox|nvram|sav|index|png)")
_MIB = 1 << 20


@dataclass(frozen=True, order=True)
class Copy:
    """A good copy: its `.ova` has the digest that the `.json` beside it says.

    Equal wherever it lies and whatever moved it.
    """

    stamp: str
    digest: str
    uuid: str


@dataclass(frozen=True)
class Vm:
    """A VM as its host has it.

    `content` is what its guest would read from its disks; `snapshots` are UUIDs with names.
    """

    uuid: str
    name: str
    state: str
    snapshots: tuple[tuple[str, str], ...]
    content: str


@dataclass(frozen=True)
class View:
    """Everything at one moment. `copies`: each good one with the directories in which it is.

    `files`: digests of what is none of ours.
    """

    copies: Mapping[Copy, frozenset[str]]
    copy_files: frozenset[str]
    vms: Mapping[str, Mapping[str, Vm]]
    disks: Mapping[str, str]
    files: Mapping[str, str]
    partial: frozenset[str]
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    generation: int = 0


@dataclass(frozen=True)
class Places:
    """Where to look: the whole `world`, in it the `nas` and the `homes` of simulated hosts by name.

    `archives`: directories besides the NAS in which copies may lie. `own`: what belongs to the
    programs (notes, settings of a host).
    """

    world: Path
    nas: Path
    homes: Mapping[str, Path]
    archives: tuple[Path, ...] = ()
    own: tuple[Path, ...] = ()

    def look(self) -> View:
        """Looks at everything."""
        copies: dict[Copy, set[str]] = {}
        copy_files, partial, files, disks = set(), set(), {}, {}
        state = self.nas / "vmstate"
        vms = tuple(home / "vms" for home in self.homes.values())
        ours = (state, *self.nas.glob("vmstate.aside-*"), *self.own)
        for path in _walk(self.world, (*ours, *(home / "config" for home in self.homes.values()))):
            name = str(path.relative_to(self.world))
            if any(path.is_relative_to(folder) for folder in vms):
                disks[name] = digest_of(path)
            elif not any(path.is_relative_to(place) for place in (self.nas, *self.archives)):
                files[name] = digest_of(path)
            elif OF_A_COPY.fullmatch(path.name):
                copy_files.add(name)
                if path.suffix == ".ova" and (copy := good_copy(path)):
                    copies.setdefault(copy, set()).add(str(path.parent))
            elif ".partial." in path.name:
                partial.add(name)
            elif path.name != ".vmbackup-archive":
                files[name] = digest_of(path)
        generation, records = read_database(state)
        return View(
            {copy: frozenset(places) for copy, places in copies.items()},
            frozenset(copy_files),
            {name: machines(home) for name, home in self.homes.items()},
            disks,
            files,
            frozenset(partial),
            records,
            generation,
        )


def _walk(top: Path, without: Sequence[Path]) -> Iterator[Path]:
    """All files and links below `top`.

    Links are not followed, and nothing is seen twice by way of a second mount of what is left out.
    """
    skipped = {
        (status.st_dev, status.st_ino)
        for path in without
        if path.exists()
        for status in [path.stat()]
    }
    for folder, names, files in os.walk(top):
        links = [name for name in names if os.path.islink(os.path.join(folder, name))]
        names[:] = [name for name in names if _identity(os.path.join(folder, name)) not in skipped]
        for name in (*files, *links):
            yield Path(folder, name)


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def digest_of(path: Path) -> str:
    """The SHA-256 of a file; of a link, where it points."""
    if path.is_symlink():
        return f"-> {os.readlink(path)}"
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return f"({error.strerror})"


def good_copy(ova: Path) -> Copy | None:
    """The copy whose `.ova` this is, if the bytes are what its `.json` says."""
    try:
        said = json.loads(ova.with_suffix(".json").read_bytes())
        digest = digest_of(ova)
        return (
            Copy(ova.stem, digest, said["uuid"])
            if said["sha256"] == digest and said["stamp"] == ova.stem
            else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_database(state: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Number and VM records of the newest generation whose seal is right; 0 and none if none is."""
    folder = state / "gen"
    numbers = (
        sorted((name for name in os.listdir(folder) if name.isdecimal()), key=int, reverse=True)
        if folder.is_dir()
        else []
    )
    for number in numbers:
        path = folder / number
        text = (path / "snapshot" if path.is_dir() else path).read_bytes()
        body, _, seal = text.rpartition(b"sha256 ")
        if seal.strip().decode("ascii", "replace") != hashlib.sha256(body).hexdigest():
            continue
        lines = body.decode("utf-8", "surrogatepass").split("\n")
        begin = next(place for place, line in enumerate(lines) if re.fullmatch(r"vms [0-9]+", line))
        rows = [
            json.loads(line) for line in lines[begin + 1 : begin + 1 + int(lines[begin].split()[1])]
        ]
        return int(number), {row["key"]: row for row in rows}
    return 0, {}


def machines(home: Path) -> dict[str, Vm]:
    """The VMs of a simulated host, from its own state."""
    stored = json.loads((home / "config" / "simulated.json").read_bytes())
    media = {medium["uuid"]: medium for medium in stored["media"]}
    return {
        machine["uuid"]: Vm(
            machine["uuid"],
            machine["name"],
            machine["state"],
            tuple((snapshot["uuid"], snapshot["name"]) for snapshot in machine["snapshots"]),
            " ".join(
                f"{slot}={_content(_chain(media, disk))}"
                for slot, disk in sorted(machine["disks"].items())
            ),
        )
        for machine in stored["machines"]
    }


def _chain(media: Mapping[str, Mapping[str, Any]], disk: str) -> list[str]:
    found = []
    while disk:
        found.append(media[disk]["location"])
        disk = media[disk]["parent"]
    return found


def _content(chain: Sequence[str]) -> str:
    """What a guest reads from a chain of VDI images, the topmost first."""
    try:
        images = [Path(path).read_bytes() for path in chain]
    except OSError as error:
        return f"({error.strerror})"
    if any(not image.startswith(b"<<<") for image in images):
        return "(no VDI)"
    return content_of(_blocks(images))


def _blocks(images: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    for block in range(struct.unpack_from("<I", images[0], 0x180)[0]):
        for image in images:
            (place,) = struct.unpack_from("<I", image, _MIB + 4 * block)
            if place < 0xFFFFFFFE:
                yield (
                    block * _MIB,
                    image[(2 + place) * _MIB : (3 + place) * _MIB].ljust(_MIB, b"\0"),
                )
                break


def content_of(pieces: Iterable[tuple[int, bytes]]) -> str:
    """A digest of a disk, given as pieces with their places on it.

    Of all its sectors that are not zeros.
    """
    found = hashlib.sha256()
    for place, data in pieces:
        for offset in range(0, len(data), 4096):
            part = data[offset : offset + 4096]
            if any(part):
                found.update(struct.pack("<Q", place + offset) + part)
    return found.hexdigest()[:16]
