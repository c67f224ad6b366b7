"""Which files differ between two copies: said while it is found, or kept for a JSON document."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from coordinator import text
from coordinator.guest.advice import advice
from coordinator.guest.reader_process import GuestReader
from shared.copies.catalogue import Copy
from shared.copies.names import final_name
from shared.output import say, warn

#: So many problems are said one by one.
_SAID: Final = 100
#: So many differences and problems a JSON document has at most: it is made in memory.
MOST_LISTED: Final = 100_000
_WORDS: Final = {
    "added": "added",
    "removed": "removed",
    "changed": "changed",
    "attributes": "with other attributes only",
}


@dataclass(slots=True)
class FileDifferences:
    """What was found. `files` and `problems` are filled for a document, up to a bound."""

    systems: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    problems: list[dict[str, Any]] = field(default_factory=list)
    unlisted: int = 0
    failed: int = 0

    def document(self) -> dict[str, Any]:
        """As `--json` has it."""
        found = {"systems": self.systems, "files": self.files, "file_problems": self.problems}
        return {**found, "unlisted": self.unlisted}


def compare_files(vm: str, before: Copy, after: Copy, *, as_json: bool) -> FileDifferences:
    """Reads both copies where their file systems differ, and says or keeps what does.

    Raises `CopyError`, `NasError`, and what the child that reads them fails with.
    """
    old, new = (copy.directory / final_name(copy.stamp, "ova") for copy in (before, after))
    found, looked = FileDifferences(), 0
    try:
        for message in GuestReader(old).compare(new):
            kind = message.pop("kind")
            message.pop("bytes")
            if kind == "alive":
                looked += 1
                text.progress(f"{vm}: compare files, {looked} s")
            elif kind == "system":
                _tell_counts(found, as_json=as_json)
                found.systems.append(_system(message, vm, as_json=as_json))
            else:
                _take(found, kind, message, as_json=as_json)
    finally:
        text.progress("")
    _tell_counts(found, as_json=as_json)
    if found.failed > _SAID and not as_json:
        warn(f"{found.failed - _SAID} more could not be read")
    return found


def _system(message: Mapping[str, Any], vm: str, *, as_json: bool) -> dict[str, Any]:
    kind = str(message["after"] or message["before"])
    how = advice(kind, vm, str(message["place"]))
    if message["why"] and not as_json:
        by_hand = f"; by hand, for each of the two copies (--copy): {how}" if how else ""
        say(f"{message['place']}: no files are compared: {message['why']}{by_hand}")
    return {**message, "advice": how if message["why"] else "", "counts": Counter()}


def _take(found: FileDifferences, kind: str, message: Mapping[str, Any], *, as_json: bool) -> None:
    system = found.systems[-1]
    place = system["place"]
    if kind == "difference":
        system["counts"][message["what"]] += 1
        kept = found.files
    else:
        found.failed += 1
        kept = found.problems
    if not as_json:
        text.progress("")
        if kind == "difference":
            say(_line(place, message))
        elif found.failed <= _SAID:
            warn(f"{place}:{message['path']}: {message['text']}")
    elif len(found.files) + len(found.problems) < MOST_LISTED:
        kept.append({"place": place, **message})
    else:
        found.unlisted += 1


def _line(place: str, message: Mapping[str, Any]) -> str:
    sizes = [message["size_before"], message["size_after"]]
    told = list(message["details"])
    if message["type_of_file"] != "file":
        told.insert(0, message["type_of_file"])
    elif sizes[0] != sizes[1]:
        told.append(" -> ".join(text.size(size) for size in sizes if size is not None))
    return f"{message['what']:<10} {place}:{message['path']}" + (
        f"  ({', '.join(told)})" if told else ""
    )


def _tell_counts(found: FileDifferences, *, as_json: bool) -> None:
    """How many files of the last partition differ, in words."""
    if as_json or not found.systems or found.systems[-1]["why"]:
        return
    system = found.systems[-1]
    counts = ", ".join(
        f"{system['counts'][what]} {words}"
        for what, words in _WORDS.items()
        if what in system["counts"]
    )
    say(f"{system['place']} ({system['after']}): {counts or 'no file differs'}")
