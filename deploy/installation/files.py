"""The files that an installation puts into the system: which are ours, and which were changed."""

import difflib
import hashlib
import itertools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from deploy.installation.places import InstallationError, Places, Steps


def digest(data: bytes) -> str:
    """How a file is recognised as we left it."""
    return hashlib.sha256(data).hexdigest()


@dataclass
class Record:
    """What we have installed. It is written after each step, so that an interruption loses none."""

    places: Places
    files: dict[str, str] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, places: Places) -> "Record":
        """What is there; nothing if nothing was installed. Raises `InstallationError`."""
        try:
            known = json.loads(places.record.read_text(encoding="utf-8"))
            return cls(places, dict(known["files"]), list(known["directories"]))
        except FileNotFoundError:
            return cls(places)
        except (ValueError, KeyError, TypeError):
            raise InstallationError(
                f"{places.record}, which says what was installed, is damaged: delete it, then "
                f"everything that is there counts as changed by somebody, and is kept"
            ) from None

    def write(self) -> None:
        """Replaces the record in one step."""
        self.make_directory(self.places.top)
        text = json.dumps({"files": self.files, "directories": self.directories}, indent=1)
        replace(self.places.record, text.encode())

    def make_directory(self, path: Path) -> None:
        """Makes a directory and those above it, and remembers which were not there."""
        missing = [place for place in (path, *path.parents) if not place.exists()]
        path.mkdir(parents=True, exist_ok=True)
        self.directories += [str(place) for place in reversed(missing)]


def replace(path: Path, data: bytes) -> None:
    """Writes a file under its name in one step, readable for everybody."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    os.chmod(new, 0o644)
    os.replace(new, path)


def put(record: Record, steps: Steps, path: Path, data: bytes) -> None:
    """Puts one file into the system, unless somebody changed what we had put there.

    Then it is kept, and what ours would change in it is shown.
    """
    there = path.read_bytes() if path.is_file() else None
    if there == data:
        record.files[str(path)] = digest(data)
        return
    if there is not None and record.files.get(str(path)) != digest(there):
        steps.say(f"keep {path}, which is not as it was installed; ours would change:")
        for line in _difference(there, data, path):
            steps.say(f"    {line}")
        return

    def act() -> None:
        record.make_directory(path.parent)
        record.files[str(path)] = digest(data)
        record.write()
        replace(path, data)

    steps.do(f"{'write' if there is None else 'update'} {path}", act)


def link(record: Record, steps: Steps, path: Path, target: Path) -> None:
    """Puts a link into the system in one step. What else has that name goes, as in an update."""
    if path.is_symlink() and os.readlink(path) == str(target):
        return

    def act() -> None:
        record.make_directory(path.parent)
        record.files[str(path)] = f"-> {target}"
        record.write()
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        os.replace(new, path)

    steps.do(f"link {path} to {target}", act)


def take_away(record: Record, steps: Steps) -> None:
    """Removes what was put into the system. What was changed is kept beside the settings."""
    kept = record.places.configuration.parent / "kept"
    for name, known in list(record.files.items()):
        path = Path(name)
        if not os.path.lexists(path):
            continue
        if path.is_symlink():
            if known == f"-> {os.readlink(path)}":
                steps.do(f"remove {path}", path.unlink)
        elif path.is_dir():
            steps.say(f"keep {path}, which is a directory now")
        elif known == digest(path.read_bytes()):
            steps.do(f"remove {path}", path.unlink)
        else:
            steps.do(f"move {path}, which was changed, into {kept}", lambda p=path: _keep(p, kept))  # type: ignore[misc]


def _keep(path: Path, kept: Path) -> None:
    """Of an earlier removal, or of another directory, nothing is overwritten."""
    kept.mkdir(parents=True, exist_ok=True)
    names = (f"{path.name}{f'.{number}' if number else ''}" for number in itertools.count())
    free = next(kept / name for name in names if not os.path.lexists(kept / name))
    replace(free, path.read_bytes())
    path.unlink()


def _difference(there: bytes, ours: bytes, path: Path) -> list[str]:
    before, after = (text.decode("utf-8", "replace").splitlines() for text in (there, ours))
    return list(difflib.unified_diff(before, after, str(path), "ours", lineterm="", n=1))
