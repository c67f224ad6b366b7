"""A program of its own: asks a mount point the questions that may never be answered.

Run as `python -I -S probe.py PATH [FILE]`.

A process that touches a hard mount whose server is gone blocks and cannot even be killed until the
server is back, so the worker lets this one do it and goes on without it. It imports nothing that is
slow: 10 ms, of which Python itself takes nine.

Prints one line, each value percent-free and separated by tabs: real path, whether it is a mount
point by device number, whether the file system is read-only, bytes a block, blocks in all, blocks
free to us. With FILE, creates, syncs and removes it there first. An error is printed as `error`,
its number, and the path.
"""

import os
import sys


def main(path: str, file: str = "") -> str:
    """The line to print."""
    try:
        real = os.path.realpath(path, strict=True)
        if not os.path.isdir(real):
            return f"error\t20\t{real}"
        own, parent = os.lstat(real), os.lstat(os.path.dirname(real))
        mounted = own.st_dev != parent.st_dev or own.st_ino == parent.st_ino
        room = os.statvfs(real)
        if file:
            _write(os.path.join(real, file))
    except OSError as error:
        return f"error\t{error.errno}\t{error.filename or path}"
    read_only = bool(room.f_flag & os.ST_RDONLY)
    values = (real, int(mounted), int(read_only), room.f_frsize, room.f_blocks, room.f_bavail)
    return "\t".join(map(str, values))


def _write(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, b"probe\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        os.unlink(path)


if __name__ == "__main__":
    sys.stdout.buffer.write(os.fsencode(main(*sys.argv[1:3])))
