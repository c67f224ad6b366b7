"""Asking the programs of a release, which are not used yet: settings, man pages, completion."""

import json
import os
import pwd
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from deploy.installation.places import CLONE, PROGRAMS, SHELLS, InstallationError, Places

_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


def said(release: Path, program: str, *arguments: str, **environment: str) -> str:
    """What a program of the release prints. Raises `InstallationError` with its error."""
    done = subprocess.run(
        [release / "bin" / program, *arguments],
        capture_output=True,
        text=True,
        env={"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", **environment},
        cwd="/",
        check=False,
    )
    if done.returncode:
        raise InstallationError(f"{program} {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def new_configuration(release: Path, nas: str) -> bytes:
    """A configuration with every setting explained and the mount point set."""
    lines = said(release, "vmbackup-admin", "config", "generate").splitlines()
    setting = f"mountpoint = {json.dumps(nas)}"
    return "".join(
        f"{setting if line.startswith('mountpoint =') else line}\n" for line in lines
    ).encode()


def mount_point(release: Path, configuration: Path) -> str:
    """Where the configuration has the NAS. Raises `InstallationError` if it is wrong."""
    shown = said(
        release, "vmbackup-admin", "--config", str(configuration), "config", "show", "--json"
    )
    return str(json.loads(shown)["configuration"]["nas"]["mountpoint"])


def texts(release: Path, places: Places) -> Iterator[tuple[Path, bytes]]:
    """What is made from the commands: man pages, completion for each shell, the schema."""
    done = subprocess.run(
        [release / "bin/python", "-P", CLONE / "deploy/man_pages.py"],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    if done.returncode:
        raise InstallationError(f"the man pages could not be made: {done.stderr.strip()}")
    for name, page in json.loads(done.stdout).items():
        yield places.root / "usr/local/share/man/man1" / name, page.encode()
    for program in PROGRAMS:
        variable = f"_{program.upper().replace('-', '_')}_COMPLETE"
        for shell, place in SHELLS.items():
            script = said(release, program, **{variable: f"{shell}_source"})
            yield places.root / place.format(program), script.encode()
    schema = said(release, "vmbackup-admin", "config", "schema")
    yield places.root / "usr/local/share/vmbackup/config.schema.json", schema.encode()


def as_owner(owner: str, program: Path, *arguments: str) -> int:
    """Runs a program as the owner of the VMs, as cron would; its exit code."""
    known = pwd.getpwnam(owner)
    environment: Mapping[str, str] = {
        "PATH": _PATH,
        "LC_ALL": "C.UTF-8",
        "HOME": known.pw_dir,
        "USER": owner,
        "LOGNAME": owner,
    }
    done = subprocess.run(
        [program, *arguments],
        env=environment,
        cwd="/",
        user=known.pw_uid,
        group=known.pw_gid,
        extra_groups=os.getgrouplist(owner, known.pw_gid),
        check=False,
    )
    return done.returncode
