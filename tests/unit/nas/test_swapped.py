"""A file that is exchanged, again and again, while it is read.

It is read as one or the other, never as a mixture or what a link leads to, and no pipe is waited
for.
"""

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.nas.reading import read_file

ONE, OTHER = b"1" * 300_000, b"2" * 200_000
READS = 200


def _link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


WITH: dict[str, Callable[[Path], object]] = {
    "another file": lambda path: path.write_bytes(OTHER),
    "a pipe": os.mkfifo,
    "a link": _link,
    "a directory": os.mkdir,
    "nothing": lambda _: None,
}


@contextlib.contextmanager
def swapped(path: Path, make: Callable[[Path], object]) -> Iterator[None]:
    """The name is that of the file and of the other thing in turn, as fast as that goes."""
    ended = threading.Event()
    aside, beside = path.with_name("aside"), path.with_name("beside")
    make(beside)

    def swap() -> None:
        for here, there in itertools.cycle(((aside, beside), (beside, aside))):
            if ended.is_set():
                return
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, here)
            with contextlib.suppress(FileNotFoundError):
                os.rename(there, path)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("other", WITH)
def test_it_is_one_or_the_other(tmp_path: Path, other: str) -> None:
    path = tmp_path / "record"
    path.write_bytes(ONE)
    found = set()
    with swapped(path, WITH[other]):
        for number in itertools.count():
            with contextlib.suppress(OSError):
                found.add(read_file(path))
            if number > READS and ONE in found:
                break
    assert found <= ({ONE, OTHER} if other == "another file" else {ONE})


@pytest.mark.timeout(60)
def test_a_file_that_is_cut_off_and_grows_while_it_is_read_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(ONE)
    ended = threading.Event()

    def grow() -> None:
        with path.open("r+b", buffering=0) as file:
            while not ended.is_set():
                file.truncate(0)
                file.seek(0)
                file.write(ONE * 4)

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        lengths = {len(read_file(path, len(ONE))) for _ in range(READS)}
    finally:
        ended.set()
        thread.join()
    assert max(lengths) <= len(ONE) + 1
