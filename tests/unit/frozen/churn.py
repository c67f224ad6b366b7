"""Random changes to a file, by all ways in which a program or its administrator changes one."""

import contextlib
import fcntl
import mmap
import os
import random
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MIB: Final = 2**20
_CLONE_RANGE: Final = 0x4020940D
_LENGTHS: Final = (1, 512, 4096, 4097, 65536, 262144)
_WINDOW: Final = 65536


class Churn:
    """A file of a few megabytes, and what is done to it. `done` counts that by its name."""

    def __init__(self, path: Path, source: random.Random, size: int = 6 * MIB) -> None:
        self.path, self._random, self._size = path, source, size
        self.done: dict[str, int] = {}
        self._ways: dict[str, Callable[[int], None]] = {
            "write": self._write,
            "write again": self._write,
            "direct": self._direct,
            "mapped": self._mapped,
            "truncated": self._truncate,
            "extended": self._extend,
            "punched": lambda fd: self._fallocate("fpunch"),
            "zeroed": lambda fd: self._fallocate("fzero"),
            "allocated": lambda fd: self._fallocate("falloc"),
            "inserted": lambda fd: self._insert(),
            "the same again": self._same,
            "moved within": self._clone_within,
            "flushed": os.fsync,
            "defragmented": lambda fd: self._defragment(),
        }
        with path.open("wb") as file:
            for at in range(0, size, MIB):
                file.seek(at)
                kind = source.random()
                if kind < 0.5:
                    file.write(source.randbytes(MIB))
                elif kind < 0.8:
                    file.write(b"compresses %09d " % at * (MIB // 20))
            file.truncate(size)

    def step(self) -> None:
        """Changes something, perhaps."""
        what = self._random.choice(sorted(self._ways))
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            self._ways[what](descriptor)
            self.done[what] = self.done.get(what, 0) + 1
        finally:
            os.close(descriptor)

    def _range(self) -> tuple[int, int]:
        length = self._random.choice(_LENGTHS)
        return self._random.randrange(max(1, self.path.stat().st_size - length)), length

    def _window(self) -> int:
        return self._random.randrange(max(1, self.path.stat().st_size // _WINDOW)) * _WINDOW

    def _write(self, descriptor: int) -> None:
        at, length = self._range()
        data = self._random.choice([self._random.randbytes(length), b"x" * length, bytes(length)])
        os.pwrite(descriptor, data, at)

    def _direct(self, descriptor: int) -> None:
        at, length = self._range()
        at, length = at // 4096 * 4096, max(4096, length // 4096 * 4096)
        with mmap.mmap(-1, length) as page:
            page[:] = self._random.randbytes(length)
            direct = os.open(self.path, os.O_RDWR | os.O_DIRECT)
            try:
                os.pwritev(direct, [page], at)
            finally:
                os.close(direct)

    def _mapped(self, descriptor: int) -> None:
        at, length = self._range()
        with mmap.mmap(descriptor, 0) as mapped:
            length = min(length, len(mapped) - at)
            mapped[at : at + length] = self._random.randbytes(length)

    def _truncate(self, descriptor: int) -> None:
        size = self.path.stat().st_size
        os.ftruncate(descriptor, max(self._size // 2, size - self._random.randrange(MIB)))

    def _extend(self, descriptor: int) -> None:
        size = self.path.stat().st_size
        os.ftruncate(descriptor, min(self._size * 2, size + self._random.randrange(MIB)))

    def _fallocate(self, word: str) -> None:
        self._tool("xfs_io", "-c", f"{word} {self._window()} {_WINDOW}", str(self.path))

    def _insert(self) -> None:
        if self.path.stat().st_size < 1.5 * self._size:
            self._fallocate("finsert")

    def _same(self, descriptor: int) -> None:
        at, length = self._range()
        os.pwrite(descriptor, os.pread(descriptor, length, at), at)

    def _clone_within(self, descriptor: int) -> None:
        source, target = self._window(), self._window()
        with contextlib.suppress(OSError):  # not beyond the end, nor onto itself
            fcntl.ioctl(
                descriptor,
                _CLONE_RANGE,
                struct.pack("=qQQQ", descriptor, source, _WINDOW, target),
            )

    def _defragment(self) -> None:
        if "btrfs" in self.path.parts[-2]:
            more = ["-czstd"] if self._random.random() < 0.3 else []
            self._tool("btrfs", "filesystem", "defragment", "-f", *more, str(self.path))
        else:
            self._tool("xfs_fsr", str(self.path))

    @staticmethod
    def _tool(*words: str) -> None:
        subprocess.run(words, check=False, capture_output=True, stdin=subprocess.DEVNULL)
