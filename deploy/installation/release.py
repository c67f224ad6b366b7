"""The environments with the programs: made beside the one that is used, which goes on meanwhile."""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from deploy.installation.places import CLONE, InstallationError, Places

LEAST: Final = (3, 11)
_COMPLETE: Final = "complete"
_SYSTEM: Final = Path("/usr/bin/python3")
_SOURCES: Final = ("coordinator", "shared", "worker")


def system_python(wanted: str | None) -> Path:
    """The interpreter of the environment: the system's, which every user may run, or `wanted`.

    Raises `InstallationError` if there is none, or it is too old or in somebody's home.
    """
    candidates = [Path(wanted)] if wanted else [_SYSTEM, Path(sys.executable)]
    for candidate in candidates:
        if _version(candidate) >= LEAST and _everybody_may_run(candidate):
            return candidate
    raise InstallationError(
        f"needs Python {LEAST[0]}.{LEAST[1]} or newer that every user may run, and "
        f"{' and '.join(map(str, candidates))} is none: name one by --python"
    )


def _version(python: Path) -> tuple[int, ...]:
    code = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [python, "-I", "-c", code], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(map(int, done.stdout.split()))


def _everybody_may_run(python: Path) -> bool:
    """Whether each directory on the way to it lets everybody pass."""
    real = Path(os.path.realpath(python))
    return all(os.stat(directory).st_mode & 0o001 for directory in (real, *real.parents))


def identify(python: Path, without: Sequence[str]) -> str:
    """The name of the release in this clone for that Python: it differs if anything differs."""
    digest = hashlib.sha256(" ".join(sorted(set(without))).encode())
    for path in sorted(_files()):
        digest.update(f"{path.relative_to(CLONE)}\0".encode() + path.read_bytes())
    version = ".".join(map(str, _version(python)))
    return f"{_project()['version']}-{digest.hexdigest()[:12]}-python{version}"


def _files() -> Iterator[Path]:
    yield from (CLONE / "pyproject.toml", CLONE / "requirements.lock")
    for room in _SOURCES:
        yield from (path for path in (CLONE / room).rglob("*.py") if path.is_file())


def _project() -> dict[str, object]:
    project: dict[str, object] = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    return project


def extras() -> list[str]:
    """What can be installed beside the programs, for all that they can do."""
    optional = _project()["optional-dependencies"]
    return sorted(set(optional) - {"development"}) if isinstance(optional, dict) else []


def is_complete(release: Path) -> bool:
    """Whether its making was not interrupted."""
    return (release / _COMPLETE).exists()


def make(release: Path, python: Path, without: Sequence[str]) -> None:
    """Makes the environment `release` under its final name: it cannot be moved afterwards.

    Raises `InstallationError`. What an interruption left is made anew.
    """
    shutil.rmtree(release, ignore_errors=True)
    release.parent.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        [python, "-I", "-m", "venv", release], capture_output=True, text=True, check=False
    )
    if made.returncode:
        shutil.rmtree(release, ignore_errors=True)
        raise InstallationError(
            f"{python} cannot make an environment: {' '.join((made.stdout + made.stderr).split())} "
            f"(on Debian: apt-get install python3-venv)"
        )
    wanted = ",".join(extra for extra in extras() if extra not in without)
    installed = subprocess.run(
        [
            *(release / "bin/python", "-m", "pip", "install", "--quiet"),
            *("--disable-pip-version-check", "--no-warn-script-location"),
            *("--constraint", CLONE / "requirements.lock", f"{CLONE}[{wanted}]"),
        ],
        cwd="/",
        check=False,
    )
    if installed.returncode:
        shutil.rmtree(release)
        raise InstallationError(
            "pip could not install the programs (above is why). A package that this Python cannot "
            "have: --without EXTRA, of " + ", ".join(extras())
        )
    (release / _COMPLETE).touch()


def switch(places: Places, release: Path) -> None:
    """Makes `release` the one that is used, in one step."""
    new = places.top / "current.new"
    new.unlink(missing_ok=True)
    new.symlink_to(release.relative_to(places.top))
    os.replace(new, places.current)


def old(places: Places, keep: str) -> list[Path]:
    """The releases that are used no more. One that a process runs in stays for now."""
    found = [path for path in places.releases.glob("*") if path.name != keep]
    before = [places.top / name for name in ("bin", "include", "lib", "lib64", "pyvenv.cfg")]
    if any(path.exists() for path in before) and not users(places.top / "bin"):
        found += [path for path in before if os.path.lexists(path)]
    return [path for path in found if not users(path)]


def users(release: Path) -> list[int]:
    """The processes that run in an environment, this one excepted."""
    if not Path("/proc/self/cmdline").exists():
        listed = subprocess.run(["ps", "-axo", "pid=,args="], capture_output=True, check=False)
        lines = (
            line.split(maxsplit=1) for line in listed.stdout.decode(errors="replace").split("\n")
        )
        return [int(line[0]) for line in lines if len(line) == 2 and f"{release}/" in line[1]]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if int(process.name) != os.getpid() and f"{release}/".encode() in arguments:
            found.append(int(process.name))
    return sorted(found)


def remove(path: Path) -> None:
    """Removes a file, a link or a directory."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
