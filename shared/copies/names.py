"""Names on the NAS: of a VM's directory, of a copy and its files, of partial files. Pure.

In `<nas>/<directory>/`:

    20261122T203800Z-17.ova                 a copy: when it was begun, and the number of its claim
    20261122T203800Z-17.json, .sha256       its sidecar, and its digests for `sha256sum -c`
    20261122T203800Z-17.vbox, .nvram, .sav  side files: what the `.ova` leaves out
    20261122T203800Z-17.index               by which the next copy finds what it need not send
    20261122T203800Z-17.png                 its screenshot: what its guest showed in a rehearsal
    .20261122T203800Z-17.17.partial.ova     being written under claim 17
"""

import functools
import itertools
import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal
from uuid import UUID

from shared.nas.spelling import folded
from shared.state.numbers import CLAIM_LIMIT

Suffix = Literal["ova", "json", "sha256", "vbox", "nvram", "sav", "index", "png"]
#: What an `.ova` leaves out, kept beside it where the VM has it: its settings file, its firmware
#: variables and TPM, its saved memory.
SIDES: Final[tuple[Suffix, ...]] = ("vbox", "nvram", "sav")
SUFFIXES: Final[tuple[Suffix, ...]] = ("ova", "json", "sha256", "index", "png", *SIDES)

#: Encrypted shares of common NAS devices take 143 bytes a name, the others 255.
LIMIT_BYTES: Final = 120

#: Directories that are no VM's: ours, those that NAS systems make, and the device names that
#: Windows reserves.
RESERVED: Final = frozenset(
    {
        "vmstate",
        "archive",
        "lost+found",
        "system volume information",
        "con",
        "prn",
        "aux",
        "nul",
        "conin$",
        "conout$",
    }
    | {f"{device}{number}" for device in ("com", "lpt") for number in "0123456789¹²³"}
)
_PLAIN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 ._-+=,()")
_STAMP: Final = r"([0-9]{8}T[0-9]{6}Z)-([1-9][0-9]{0,17})"
_STAMP_PATTERN: Final = re.compile(_STAMP)
_PARTIAL_PATTERN: Final = re.compile(
    rf"\.({_STAMP})\.([1-9][0-9]{{0,17}})\.partial\.(.+)", re.DOTALL
)
_LOOKS_LIKE_A_COPY: Final = re.compile(r"\.?[0-9]{8}T[0-9]{6}Z-[0-9]+\..+", re.DOTALL)
_MOMENT: Final = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a stamp says.

    Two of the three signs that tell which copy is newer (`shared.copies.chronology`). `moment` is
    UTC.
    """

    moment: datetime
    claim: int


@dataclass(frozen=True, slots=True)
class Partial:
    """What the name of a partial file says.

    `claim` is that of whoever writes it, `suffix` usually one of `SUFFIXES`.
    """

    stamp: str
    claim: int
    suffix: str


def make_stamp(now: datetime, claim: int) -> str:
    """The name of the copy begun at `now` (aware) under `claim`: `20261122T203800Z-17`."""
    if not 1 <= claim < CLAIM_LIMIT:
        raise ValueError("claims are numbered from one, and no counter comes near 2**53")
    moment = now.astimezone(UTC)
    return f"{moment.year:04}{moment:%m%dT%H%M%SZ}-{claim}"


@functools.lru_cache(maxsize=4096)  # each copy of a directory is compared with each other one
def parse_stamp(text: str) -> Stamp:
    """The inverse of `make_stamp`. Raises ValueError."""
    match = _STAMP_PATTERN.fullmatch(text)
    if not match or int(match[2]) >= CLAIM_LIMIT:
        raise ValueError(f"{text!r} is no stamp of a copy")
    return Stamp(datetime.strptime(match[1], _MOMENT).replace(tzinfo=UTC), int(match[2]))


def is_stamp(text: str) -> bool:
    """Whether `text` is what `make_stamp` could have returned."""
    try:
        parse_stamp(text)
    except ValueError:
        return False
    return True


def looks_like_a_copy(name: str) -> bool:
    """Whether a name is built like those of copies, whatever its number.

    If it is none of ours, people should hear of it.
    """
    return bool(_LOOKS_LIKE_A_COPY.fullmatch(name))


def final_name(stamp: str, suffix: Suffix) -> str:
    """The name of a published file."""
    return f"{stamp}.{suffix}"


def parse_final(name: str) -> tuple[str, Suffix] | None:
    """Stamp and suffix of a published file's name; None if it is not one."""
    for suffix in SUFFIXES:
        stamp = name.removesuffix(f".{suffix}")
        if stamp != name and is_stamp(stamp):
            return stamp, suffix
    return None


def partial_name(stamp: str, claim: int, suffix: Suffix) -> str:
    """The name of a file that `claim` is writing. VirtualBox insists on the ending `.ova`."""
    return f".{stamp}.{claim}.partial.{suffix}"


def parse_partial(name: str) -> Partial | None:
    """The inverse of `partial_name`, for any suffix (VirtualBox may leave others beside).

    None if it is no partial file.
    """
    match = _PARTIAL_PATTERN.fullmatch(name)
    if not match or not is_stamp(match[1]) or int(match[4]) >= CLAIM_LIMIT:
        return None
    return Partial(match[1], int(match[4]), match[5])


def safe_directory_name(vm_name: str, taken: Collection[str], uuid: str) -> str:
    """A name for a VM's directory that NFS, SMB, macOS and Windows all accept.

    Readable where possible, and always one name in its parent. Letters and digits of all scripts
    stay; what is odd is percent-encoded. Where the name is too long, or equals one of `taken` on a
    file system that ignores case, part of the VM's UUID is appended. The result depends on nothing
    but the arguments; it is chosen once and kept in the VM's record, so that renaming the VM does
    not move its copies. `taken`: the directories of all other VMs, and the first directory of the
    archive's path if that lies elsewhere below the mount point. Raises ValueError if `uuid` is
    none.
    """
    return DirectoryNames(taken).choose(vm_name, uuid)


class DirectoryNames:
    """Names of directories that are taken. Choosing among thousands is as fast as among three."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._used = {folded(name) for name in taken}

    def take(self, name: str) -> None:
        """From now on `name` is taken, too."""
        self._used.add(folded(name))

    def choose(self, vm_name: str, uuid: str) -> str:
        """See `safe_directory_name`."""
        identity = UUID(uuid).hex
        name = _plain_name(unicodedata.normalize("NFC", vm_name))
        if name and len(name.encode()) <= LIMIT_BYTES and folded(name) not in self._used:
            return name
        suffixes = itertools.chain(
            (identity[:8], identity), (f"{identity}-{number}" for number in itertools.count(2))
        )
        candidates = (
            f"{_shorten(name, LIMIT_BYTES - len(suffix) - 1)}-{suffix}" for suffix in suffixes
        )
        return next(candidate for candidate in candidates if folded(candidate) not in self._used)


def _plain_name(name: str) -> str:
    encoded = _protect(_encode(name))
    if unicodedata.is_normalized("NFC", encoded):
        return encoded
    return _protect(
        "".join(character if character in _PLAIN else _percent(character) for character in name)
    )  # an accent met a code's last digit


def _encode(name: str) -> str:
    return "".join(character if _readable(character) else _percent(character) for character in name)


def _readable(character: str) -> bool:
    if character < "\x80":
        return character in _PLAIN
    # Letters, digits and the marks that belong to letters; beyond the first plane not every SMB
    # server keeps up.
    return character <= "\uffff" and unicodedata.category(character) in {
        "Lu",
        "Ll",
        "Lt",
        "Lm",
        "Lo",
        "Mn",
        "Mc",
        "Nd",
    }


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _protect(name: str) -> str:
    """Encode one more character of a name that would be hidden, an option, trimmed, or reserved."""
    if name and name[-1] in ". ":
        name = name[:-1] + _percent(name[-1])
    if name and (
        name[0] in ".- "
        or name.split(".")[0].rstrip(" ").casefold() in RESERVED
        or name.casefold() in RESERVED
    ):
        name = _percent(name[0]) + name[1:]
    return name


def _shorten(name: str, limit: int) -> str:
    """The longest beginning of `name` within `limit` bytes; `vm` if it is empty.

    No character and no encoded byte is cut apart.
    """
    pieces = re.findall(r"%[0-9A-F]{2}|.", name, re.DOTALL)
    size = 0
    kept = []
    for piece in pieces:
        size += len(piece.encode())
        if size > limit:
            break
        kept.append(piece)
    return "".join(kept).rstrip(". ") or "vm"
