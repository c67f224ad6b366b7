"""A copy that is read by several while its NAS goes and comes: each waits only for the NAS."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from coordinator.mounting.steady_copy import SteadyCopy
from shared.host.errors import NasError
from shared.ova.disk_reader import CopyReader, open_copy
from tests.support import engine_copies

BLOCK = engine_copies.BLOCK


@pytest.fixture
def ova(tmp_path: Path) -> Path:
    """A copy with an index."""
    image = engine_copies.disk(b3=0, b33=9)
    return Path(engine_copies.make(tmp_path, "made", {"SATA-0-0": image}).ova)


def failing(read: Callable[[int, int, int], bytes]) -> Callable[[int, int, int], bytes]:
    """Fails in all threads but the one that has called this, which goes on reading."""
    own = threading.get_ident()

    def pread(descriptor: int, length: int, place: int) -> bytes:
        if threading.get_ident() != own:
            raise OSError(5, "Input/output error")
        return read(descriptor, length, place)

    return pread


def lose(steady: SteadyCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its NAS is away while it is read, and back then."""

    def refuse(*_: int) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as away:
        away.setattr(os, "pread", refuse)
        with pytest.raises(NasError):
            steady.read(1, 3 * BLOCK, BLOCK)


def times_open(file: Path) -> int:
    """How many times this process has a file open."""
    return [each.path for each in psutil.Process().open_files()].count(str(file))


@pytest.mark.broad
def test_who_reads_goes_on_when_another_one_fails(
    ova: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is closed by the last: closed before, what it reads would count as damaged."""
    with SteadyCopy(ova) as steady, SteadyCopy(ova) as other:
        want, before = other.read(1, 3 * BLOCK, BLOCK), steady.reader()
        read, failed = os.pread, list[BaseException | None]()

        def pread(descriptor: int, length: int, place: int) -> bytes:
            if not failed:
                failed.append(None)
                monkeypatch.setattr(os, "pread", failing(read))
                with ThreadPoolExecutor(1) as pool:
                    failed.append(pool.submit(steady.read, 1, 33 * BLOCK, BLOCK).exception())
                assert times_open(ova) == 2
            return read(descriptor, length, place)

        monkeypatch.setattr(os, "pread", pread)
        assert steady.read(1, 3 * BLOCK, BLOCK) == want
        assert isinstance(failed[1], NasError)
        assert times_open(ova) == 1, "that of the other one"
        monkeypatch.setattr(os, "pread", read)
        assert steady.reader() is not before
        assert steady.read(1, 3 * BLOCK, BLOCK) == want


@pytest.mark.broad
def test_an_index_that_cannot_be_read_now_is_no_damage(
    ova: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SteadyCopy(ova) as steady:
        monkeypatch.setattr(os, "pread", failing(os.pread))
        with ThreadPoolExecutor(1) as pool:
            error = pool.submit(steady.read, 1, 3 * BLOCK, BLOCK).exception()
    assert isinstance(error, NasError)


@pytest.mark.broad
def test_a_copy_that_is_away_again_when_it_was_opened_is_closed(
    ova: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[CopyReader]()

    def opener(path: Path) -> CopyReader:
        opened.append(open_copy(path))
        if len(opened) == 2:
            path.rename(path.with_name("away"))
        return opened[-1]

    with SteadyCopy(ova, opener) as steady:
        assert times_open(ova) == 1
        lose(steady, monkeypatch)
        with pytest.raises(NasError):
            steady.reader()
        assert len(opened) == 2
        assert times_open(ova.with_name("away")) == 0
        ova.with_name("away").rename(ova)
        assert steady.read(1, 3 * BLOCK, BLOCK)
        assert times_open(ova) == 1
    assert times_open(ova) == 0
