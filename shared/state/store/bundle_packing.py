"""Makes a bundle of generations (see `bundle`): each as its difference from the one before."""

import gzip
import hashlib
import json

from shared.state.store.bundle import MAGIC, STAMP, UNKNOWN, BundleName, compact
from shared.state.store.difference import between, render


class Packer:
    """Makes one bundle of generations that are added, oldest first; there must be one.

    `before` is the generation before the first one, a good one, if it is known.
    """

    def __init__(self, before: tuple[int, bytes] | None = None) -> None:
        self._before, base = before or (0, b"")
        self._lines = base.split(b"\n") if before else []
        self._records = [base]
        self._numbers: list[int] = []
        self._damaged: list[int] = []
        #: How many bytes it has so far, before compression.
        self.size = len(base)

    def add(self, number: int, data: bytes, *, damaged: bool = False) -> None:
        """Adds a generation, whatever its bytes are."""
        lines = data.split(b"\n")
        record = render(between(self._lines, lines))
        self._lines = lines
        self._records.append(record)
        self._numbers.append(number)
        self.size += len(record)
        if damaged:
            self._damaged.append(number)

    def finish(self, committed: str, token: str) -> tuple[BundleName, bytes]:
        """The name and the bytes of the bundle, of which the newest commit was made then.

        `committed` is as in generations; empty: that is not known.
        """
        table = {
            "numbers": self._numbers,
            "lengths": [len(record) for record in self._records[1:]],
            "before": self._before,
            "before_bytes": len(self._records[0]),
            "damaged": self._damaged,
        }
        body = b"\n".join([MAGIC, json.dumps(table).encode(), b"".join(self._records)])
        digest = hashlib.sha256(body).hexdigest()
        whole = body + f"\nsha256 {digest}\n".encode()
        when = compact(committed)
        stamp = when if STAMP.fullmatch(when) else UNKNOWN
        name = BundleName(self._numbers[0], self._numbers[-1], stamp, digest[:32], token)
        return name, gzip.compress(whole, 9, mtime=0)
