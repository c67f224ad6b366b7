"""`vmtool-statedb`.

One `<vmname>:<status>` line a VM, the format of version 1.0, for people and for tools that know it.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from shared.host.errors import DatabaseDamagedError
from shared.state.records import Contents
from shared.state.states import State

_ODD: Final = re.compile(r"[:%\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def escape(name: str) -> str:
    """`name` with `:`, `%`, line breaks and control characters percent-encoded, so that each line has two fields."""
    return _ODD.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass")),
        name,
    )


def unescape(text: str) -> str:
    """The inverse of `escape`."""
    return unquote(text, errors="surrogatepass")


def render(contents: Contents) -> bytes:
    """The whole file, sorted by name."""
    return "".join(
        f"{escape(key)}:{contents.vms[key].status}\n" for key in sorted(contents.vms)
    ).encode()


def parse(data: bytes) -> Mapping[str, State]:
    """Reads the file. Raises `DatabaseDamagedError` that names every line it does not understand."""
    result: dict[str, State] = {}
    wrong: list[str] = []
    for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        name, colon, status = line.rpartition(":")
        try:
            if not (colon and name):
                raise ValueError("no colon")
            key, state = unescape(name), State(status.strip())
            if key in result:
                raise ValueError("twice")
            result[key] = state
        except ValueError:
            wrong.append(f"  line {number}: {line[:80]!r}")
    if wrong:
        raise DatabaseDamagedError(
            "vmtool-statedb has lines that are not <vmname>:<status>:\n" + "\n".join(wrong),
            hint="correct or delete these lines and try again",
        )
    return result
