"""`python -m deploy.single WHEEL DIRECTORY`: makes the single file of a wheel.

What has native parts cannot be imported from an archive, so the file is unpacked once by each user,
and fits the Python and the platform on which it was made.
"""

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploy.installation.release import extras

ROOT: Final = Path(__file__).resolve().parents[2]
PYTHON: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"


def make(wheel: Path, directory: Path) -> Path:
    """Makes the file in `directory`; which one. Raises `CalledProcessError` if pip fails."""
    version = wheel.name.split("-")[1]
    target = directory / f"vmbackup-{version}-python{PYTHON}-{sysconfig.get_platform()}"
    with tempfile.TemporaryDirectory() as place:
        modules = Path(place) / "modules"
        _install(wheel, modules)
        pack(modules, target)
    return target


def pack(modules: Path, target: Path, python: str = PYTHON) -> None:
    """Makes the file `target` of a directory of modules, in one step."""
    made = {"python": python, "platform": sysconfig.get_platform(), "digest": _digest(modules)}
    new = target.with_name(f".{target.name}.new")
    with new.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("__main__.py", (ROOT / "deploy/single/start.py").read_bytes())
            packed.writestr("made.json", json.dumps(made))
            for path in _files(modules):
                packed.write(path, path.relative_to(modules.parent))
    new.chmod(0o755)
    os.replace(new, target)


def _install(wheel: Path, modules: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    wanted = f"vmbackup[{','.join(extras())}] @ {wheel.resolve().as_uri()}"
    constraint = ROOT / "requirements.lock"
    subprocess.run(
        [*command, "--no-compile", "--target", modules, "--constraint", constraint, wanted],
        check=True,
    )


def _files(modules: Path) -> Iterator[Path]:
    yield from (path for path in sorted(modules.rglob("*")) if path.is_file())


def _digest(modules: Path) -> str:
    digest = hashlib.sha256()
    for path in _files(modules):
        digest.update(str(path.relative_to(modules)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """Makes it, and says where it is."""
    print(make(Path(sys.argv[1]), Path(sys.argv[2])))


if __name__ == "__main__":
    main()
