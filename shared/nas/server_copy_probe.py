"""A program of its own: measures what a file system does when bytes are copied between its files.

Run as `python -I -S server_copy_probe.py KIND MOUNTPOINT DIRECTORY NAME`, KIND `nfs`, `cifs` or
`local`. It makes two files of that name in DIRECTORY, of 24 MiB at most, and removes them.

Over the network the kernel counts what it sends and receives at a mount: whoever copies bytes that
did not pass here has had them copied by the server. Others use the mount, too, so each copy is
followed by a pause of the same length. Traffic of others can make an attempt say nothing; it can
never make it say the wrong thing: few bytes in all are few of ours, and a server does not copy only
if three copies in a row were loud and the pauses after them quiet.

Prints one line: `copies`, `sends` or `unknown`; `shares`, `apart` or `unknown` for the blocks; why,
in words. What a full, read-only or absent NAS answers is `unknown`. It imports nothing slow.
"""

import contextlib
import errno
import fcntl
import os
import re
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence

SIZE = 4 << 20
#: So many bytes may pass for names, attributes, and the requests to copy.
_FEW = SIZE // 8
#: A copy was loud if it carried at least this, and room that was used is at least this.
_MOST = SIZE // 4 * 3
_ATTEMPTS = 8
_LOUD = 3
_BLOCK = 4096
_SHORTEST_PAUSE = 0.02
_ROUNDS = 2
#: Clone a range of a file: the two share their blocks afterwards, or it is refused.
_FICLONERANGE = 0x4020940D
_REFUSED = frozenset(
    {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY, errno.EPERM}
)

#: Bytes received and sent so far.
Counter = Callable[[], tuple[int, int]]


def main(kind: str, mountpoint: str, directory: str, name: str) -> str:
    """The line to print."""
    source = os.path.join(directory, name)
    try:
        with _new(source) as one, _new(f"{source}.copy") as other:
            if kind == "local":
                return _local(one, other)
            return _network(one, other, _counter(kind, mountpoint))
    except (OSError, ValueError) as error:
        return f"unknown\tunknown\t{getattr(error, 'strerror', None) or error}"


def judge(attempts: Sequence[tuple[int, int]]) -> bool | None:
    """Whether the server copies by itself, from the bytes that each copy and its pause carried.

    None: that is not certain.
    """
    if any(copied < _FEW for copied, _ in attempts):
        return True
    last = attempts[-_LOUD:]
    sure = len(last) == _LOUD and all(copied >= _MOST and rest < _FEW for copied, rest in last)
    return False if sure else None


def parse_nfs(text: str, mountpoint: str) -> tuple[int, int]:
    """Received and sent bytes of file contents, of /proc/self/mountstats. Raises ValueError."""
    escaped = re.sub(r"[ \t\n\\]", lambda found: f"\\{ord(found[0]):03o}", mountpoint)
    _, there, rest = text.rpartition(f" mounted on {escaped} with fstype ")
    own = rest.partition("\ndevice ")[0] if there else ""
    found = re.search(r"^\s*bytes:\s+((?:\d+ ?)+)", own, re.MULTILINE)
    numbers = found[1].split() if found else []
    if len(numbers) < 6:
        raise ValueError("the kernel does not count what passes this mount")
    return int(numbers[4]), int(numbers[5])


def parse_cifs(text: str) -> tuple[int, int]:
    """Received and sent bytes of all shares, of /proc/fs/cifs/Stats. Raises ValueError."""
    found = re.findall(r"Bytes read: (\d+)\s+Bytes written: (\d+)", text)
    if not found:
        raise ValueError("the kernel does not count what passes this mount")
    return sum(int(read) for read, _ in found), sum(int(written) for _, written in found)


def _counter(kind: str, mountpoint: str) -> Counter:
    def read(path: str) -> str:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()

    if kind == "nfs":
        return lambda: parse_nfs(read("/proc/self/mountstats"), mountpoint)
    return lambda: parse_cifs(read("/proc/fs/cifs/Stats"))


@contextlib.contextmanager
def _new(path: str) -> Iterator[int]:
    """A new file, which goes again."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        os.unlink(path)


def _local(source: int, target: int) -> str:
    """There is no wire to spare: what can be won is that blocks are stored once."""
    _write(source, os.urandom(_BLOCK), 0)
    if not _clone(source, target, _BLOCK):
        return "sends\tapart\tits file system does not share blocks between files"
    return "copies\tshares\t"


def _network(source: int, target: int, carried: Counter) -> str:
    data = os.urandom(SIZE)
    before = carried()
    _write(source, data, 0)
    if carried()[1] - before[1] < SIZE:
        return "unknown\tunknown\tthe kernel does not count what is sent at this mount"
    if refusal := _tried(source, target, carried):
        return refusal
    before = carried()
    if _read(target) != data:
        return "sends\tapart\tits server copied other bytes"
    if carried()[0] - before[0] < SIZE:
        return "unknown\tunknown\tthe kernel does not count what is received at this mount"
    return f"copies\t{_sharing(source, target)}\t"


def _tried(source: int, target: int, carried: Counter) -> str:
    """Copies until it is certain who does it; the line to print unless it is the server."""
    attempts: list[tuple[int, int]] = []
    copies = None
    while copies is None and len(attempts) < _ATTEMPTS:
        try:
            attempts.append(_attempt(source, target, carried))
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            return f"sends\tapart\tits server does not copy between files ({error.strerror})"
        copies = judge(attempts)
    if copies is None:
        return "unknown\tunknown\tothers used the mount all the time"
    if not copies:
        return "sends\tapart\tits server does not copy by itself: the bytes come here and go back"
    return ""


def _attempt(source: int, target: int, carried: Counter) -> tuple[int, int]:
    """What a copy carried, in both directions, and what a pause of the same length did."""
    began, start = time.monotonic(), sum(carried())
    _copy(source, target, 0)
    end, seconds = sum(carried()), time.monotonic() - began
    time.sleep(max(seconds, _SHORTEST_PAUSE))
    return end - start, sum(carried()) - end


def _sharing(source: int, target: int) -> str:
    """Whether source and target share blocks.

    Asked of the server where it can be; else its free room says so, if it says the same twice.
    """
    try:
        if _clone(source, target, SIZE):
            return "shares"
        answers = {_by_room(source, target, 2 * number + 1) for number in range(_ROUNDS)}
    except OSError:
        return "unknown"
    return answers.pop() if len(answers) == 1 else "unknown"


def _by_room(source: int, target: int, piece: int) -> str:
    """What writing uses of the free room, and what copying does."""
    start = _free(target)
    _write(target, os.urandom(SIZE), piece * SIZE)
    written = _free(target)
    _copy(source, target, (piece + 1) * SIZE)
    end = _free(target)
    if start - written < _MOST:
        return "unknown"
    if written - end < _FEW:
        return "shares"
    return "apart" if written - end >= _MOST else "unknown"


def _clone(source: int, target: int, length: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONERANGE, struct.pack("=qQQQ", source, 0, length, 0))
    except OSError as error:
        if error.errno in _REFUSED:
            return False
        raise
    return True


def _free(descriptor: int) -> int:
    room = os.statvfs(descriptor)
    return room.f_bfree * room.f_frsize


def _write(descriptor: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count
    os.fsync(descriptor)


def _copy(source: int, target: int, position: int) -> None:
    done = 0
    while done < SIZE:
        count = _copy_range(source, target, SIZE - done, done, position + done)
        if not count:
            raise OSError(errno.EIO, "it copied nothing")
        done += count
    os.fsync(target)


def _copy_range(source: int, target: int, length: int, start: int, position: int) -> int:
    if sys.platform == "linux":
        return os.copy_file_range(source, target, length, start, position)
    raise OSError(errno.ENOSYS, "this system cannot copy between files")


def _read(descriptor: int) -> bytes:
    if sys.platform == "linux":
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    data = b""
    while len(data) < SIZE and (piece := os.pread(descriptor, SIZE - len(data), len(data))):
        data += piece
    return data


if __name__ == "__main__":
    sys.stdout.buffer.write(os.fsencode(main(*sys.argv[1:5])))
