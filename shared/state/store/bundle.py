"""A bundle: many generations in one compressed file, as what differs between each and the next.

Plain gzip, so `zcat` shows it. Inside are lines: what it is, a table of the generations in it, the
whole generation before the first of them (so that its difference is known, too, and a bundle is
read without any other), for each generation its difference, and the SHA-256 of all that.
"""

import hashlib
import re
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, Final

from shared.host.document_fields import FROM_JSON, Count
from shared.host.documents import Document, load
from shared.host.errors import DatabaseDamagedError
from shared.state.numbers import believable
from shared.state.store.difference import Difference, applied, extent, parse

#: The first line. One of another format is reported, and costs what is in it.
MAGIC: Final = b"vmbackup-history 1"
#: Instead of a moment: none of its generations is a good one.
UNKNOWN: Final = "unknown"
STAMP: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_NAME: Final = re.compile(
    rf"([0-9]{{20}})-([0-9]{{20}})\.({STAMP.pattern}|{UNKNOWN})\.([0-9a-f]{{32}})-([0-9a-f]{{8}})\.gz"
)
_REPOSITORY: Final = re.compile(rb"^repository ([0-9a-f-]{36})$", re.MULTILINE)
#: A table of this many generations is none of ours.
_MOST: Final = 100_000
#: What is unpacked of one at most. It ends long before, when it can still be read back with one
#: generation more; of what was sealed to fill the memory no more is read.
LIMIT_BYTES: Final = 1 << 27
#: Of the table of one with so many generations.
_TABLE_BYTES: Final = 1 << 22


@dataclass(frozen=True, slots=True, order=True)
class BundleName:
    """What the name of a bundle says: its numbers, when its newest commit was made, its digest.

    The digest is that of what is in it before compression. By its `token`, random digits, no other
    bundle has its name, so none ever takes the place of another that was read back before.
    """

    first: int
    last: int
    committed: str
    digest: str
    token: str

    def __str__(self) -> str:
        numbers = f"{self.first:020d}-{self.last:020d}"
        return f"{numbers}.{self.committed}.{self.digest}-{self.token}.gz"


def bundle_names(names: Iterable[str]) -> list[BundleName]:
    """Those of `names` that are a bundle's, oldest first."""
    matches = (match for name in names if (match := _NAME.fullmatch(name)))
    found = (BundleName(int(each[1]), int(each[2]), *each.groups()[2:]) for each in matches)
    return sorted(name for name in found if 0 < name.first <= name.last and believable(name.last))


def compact(committed: str) -> str:
    """A time as it stands in generations, as names have it: `20261122T203800Z`."""
    return committed.replace("-", "").replace(":", "")


@dataclass(frozen=True, slots=True)
class _Table(Document):
    """The second line of a bundle: numbers, and how long the difference of each is in bytes.

    `before` is the number of the generation that comes first, whole; 0: there is none. `damaged`
    are those of which the bytes are kept, and are no good generation.
    """

    numbers: Annotated[tuple[Count, ...], FROM_JSON]
    lengths: Annotated[tuple[Count, ...], FROM_JSON]
    before: Count = 0
    before_bytes: Count = 0
    damaged: Annotated[tuple[Count, ...], FROM_JSON] = ()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read: whole, and as its digest says."""

    name: BundleName
    numbers: tuple[int, ...]
    before: int
    damaged: frozenset[int]
    repository: str
    _body: bytes = field(repr=False)
    #: Where in `_body` the difference of each generation begins, and where the last one ends.
    _starts: tuple[int, ...] = field(repr=False)

    def __contains__(self, number: int) -> bool:
        place = bisect_left(self.numbers, number)
        return place < len(self.numbers) and self.numbers[place] == number

    def difference(self, number: int) -> Difference:
        """What the commit that made this generation has changed. It must be one of `numbers`."""
        return parse(self._record(number))

    def extent(self, number: int) -> tuple[int, int]:
        """Of how many lines its difference is, and how many they become. Raises ValueError."""
        return extent(self._record(number))

    def _record(self, number: int) -> bytes:
        place = bisect_left(self.numbers, number)
        return self._body[self._starts[place] : self._starts[place + 1]]

    def follows(self, number: int) -> bool:
        """Whether its difference is that from the generation that its number follows."""
        place = bisect_left(self.numbers, number)
        before = self.numbers[place - 1] if place else self.before
        return before == number - 1 and before not in self.damaged

    def naming(self, texts: Iterable[bytes]) -> frozenset[int]:
        """The generations in whose difference one of these texts stands."""
        found: set[int] = set()
        for text in texts:
            position = self._starts[0]
            while (position := self._body.find(text, position, self._starts[-1])) >= 0:
                place = bisect_right(self._starts, position) - 1
                found.add(self.numbers[place])
                position = self._starts[place + 1]
        return frozenset(found)

    def generations(self) -> Iterator[tuple[int, bytes]]:
        """Each generation, byte for byte, oldest first.

        Raises `DatabaseDamagedError` at one of which the difference is that from others.
        """
        yield from ((number, b"\n".join(lines)) for number, lines in self._lines())

    def generation(self, number: int) -> bytes | None:
        """One generation, byte for byte; None if it is not in here.

        Raises as `generations`.
        """
        if number not in self:
            return None
        return b"\n".join(next(lines for each, lines in self._lines() if each == number))

    def _lines(self) -> Iterator[tuple[int, list[bytes]]]:
        base = self.base()
        lines = base.split(b"\n") if base is not None else []
        for number in self.numbers:
            try:
                lines = applied(self.difference(number), lines)
            except ValueError:
                what = f"generation {number} cannot be made of its bundle {self.name}"
                raise DatabaseDamagedError(what) from None
            yield number, lines

    def base(self) -> bytes | None:
        """The generation before the first one, if it is in here."""
        start = self._body.index(b"\n", len(MAGIC) + 1) + 1
        return self._body[start : self._starts[0]] if self.before else None


def unpack(name: BundleName, data: bytes) -> Bundle:
    """Reads a bundle, all of it. Raises `ValueError` with a sentence about what is wrong."""
    body = _checked(name, _inflated(data))
    magic, _, rest = body.partition(b"\n")
    if magic != MAGIC:
        raise ValueError(f"it begins with {magic[:40]!r}")
    line, _, _ = rest.partition(b"\n")
    table = _Table.from_json(load(line, _TABLE_BYTES))
    numbers = table.numbers
    start = len(magic) + len(line) + 2 + table.before_bytes
    starts = tuple(accumulate(table.lengths, initial=start))
    if (
        not 0 < len(numbers) == len(table.lengths) <= _MOST
        or (numbers[0], numbers[-1]) != (name.first, name.last)
        or list(numbers) != sorted(set(numbers))
        or not 0 <= table.before < numbers[0]
        or starts[-1] != len(body)
    ):
        raise ValueError("its table does not fit")
    found = _REPOSITORY.search(body)
    repository = found[1].decode() if found else ""
    bundle = Bundle(name, numbers, table.before, frozenset(table.damaged), repository, body, starts)
    _require_differences(bundle)
    return bundle


def _require_differences(bundle: Bundle) -> None:
    """Raises ValueError unless each is one, of as many lines as there are.

    A checksum is no proof of that: whoever may write to the NAS can make one.
    """
    base = bundle.base()
    lines = base.count(b"\n") + 1 if base is not None else 0
    for number in bundle.numbers:
        old, new = bundle.extent(number)
        if old != lines:
            raise ValueError("it has a difference from something else")
        lines = new


def _inflated(data: bytes) -> bytes:
    """What was compressed, `LIMIT_BYTES` at most. Raises ValueError."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        whole = inflater.decompress(data, LIMIT_BYTES)
    except zlib.error as error:
        raise ValueError(f"it cannot be unpacked ({error})") from None
    if not inflater.eof or inflater.unused_data:
        raise ValueError("it is cut off, or too long")
    return whole


def _checked(name: BundleName, whole: bytes) -> bytes:
    """What stands above the digest, which must be that of the name. Raises ValueError."""
    body, separator, trailer = whole.rpartition(b"\nsha256 ")
    digest = hashlib.sha256(body).hexdigest()
    if not separator or trailer != f"{digest}\n".encode() or digest[:32] != name.digest:
        raise ValueError("its checksum is wrong")
    return body
