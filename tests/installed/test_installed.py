"""Installed, used and removed on a fresh Debian, as docs/installation.md tells it.

CI walks one of the ways on one of the Debians (`VMBACKUP_SEED` gives it again); `make prove`
walks all. A copy is made by the cron of that Debian; the files before and after are compared.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from deploy.testbed.nas.packages import obstacle
from tests.installed.fresh_debian import CLONE, PROJECT, FreshDebian, clone
from tests.support.drawing import TOLD, drawn

PAGE: Final = PROJECT / "docs/installation.md"
#: The first release, whose README had an installation by hand.
FIRST: Final = "027e4e6"
SUITES: Final = ("stable", "sid")
#: Cron looks once a minute; the rest is for a busy machine.
_TICK_SECONDS: Final = 150


def told(section: str, **instead: str) -> list[tuple[str, str]]:
    """The commands of a section of the page: who gives them, and what."""
    text = re.search(
        rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert text, f"there is no section {section}"
    commands = [line.strip() for line in text[1].splitlines() if line.startswith("    ")]
    for before, after in {**instead, "*/10 *": "* *"}.items():
        commands = [command.replace(before, after) for command in commands]
    return [
        ("root", f"cd {CLONE}; {command.removeprefix('sudo ')}")
        if command.startswith("sudo ")
        else ("alice", command)
        for command in commands
    ]


def follow(debian: FreshDebian, commands: list[tuple[str, str]]) -> str:
    """Gives the commands; what they print."""
    said = ""
    for user, command in commands:
        said += debian.root(command) if user == "root" else debian.alice(command)
    return said


def by_command(debian: FreshDebian) -> None:
    """From a clone, by `deploy/install`."""
    install = told("Install", **{"--schedule cron": "--schedule cron --every 1m"})
    assert "would make /opt/vmbackup/releases" in debian.root(f"{install[0][1]} --dry-run")
    assert "nothing is left to do" not in follow(debian, install)
    assert "nothing is left to do" in debian.root(install[0][1])
    assert "man1/vmbackup-admin-restore.1" in debian.root("man --path vmbackup-admin-restore")


def removed_by_command(debian: FreshDebian) -> None:
    follow(debian, told("Leave"))


def by_wheel(debian: FreshDebian) -> None:
    """From a wheel, by hand."""
    debian.root(f"""
        python3 -m venv /tmp/build
        /tmp/build/bin/pip wheel --quiet --no-deps --wheel-dir /srv {CLONE}
    """)
    follow(debian, told("A wheel", **{"vmbackup-0.2.0": "/srv/vmbackup-0.2.0"}))


def removed_by_hand(debian: FreshDebian) -> None:
    follow(debian, told("Leave without deploy/uninstall"))


def by_single_file(debian: FreshDebian) -> None:
    """By the single file."""
    debian.root(f"""
        python3 -m venv /tmp/build
        /tmp/build/bin/pip wheel --quiet --no-deps --wheel-dir /srv/dist {CLONE}
        cd {CLONE}; /tmp/build/bin/python -m deploy.single /srv/dist/*.whl /srv/dist
    """)
    follow(debian, told("A single file", dist="/srv/dist"))


def by_update(debian: FreshDebian) -> None:
    """From the first release, which was installed by hand as its README said."""
    debian.root(f"""
        python3 -m venv /opt/vmbackup
        /opt/vmbackup/bin/pip install --quiet '{CLONE}/old[fast,terminal]'
        ln -s /opt/vmbackup/bin/vmbackup-* /usr/local/bin/
        mkdir -p /etc/vmbackup
        vmbackup-admin config generate --output /etc/vmbackup/config.toml
        sed -i 's|^mountpoint = .*|mountpoint = "/mnt/nas"|' /etc/vmbackup/config.toml
        sed 's/VMOWNER/alice/' {CLONE}/old/deploy/cron/vmbackup >/etc/cron.d/vmbackup
    """)
    debian.alice("vmbackup-admin init; vmbackup-worker run")
    (old,) = debian.alice("ls /mnt/nas/web01 | grep 'ova$'").split()
    said = follow(debian, told("Update"))
    assert "keep /etc/cron.d/vmbackup, which is not as it was installed" in said
    assert "/opt/vmbackup/current/" in debian.root("readlink /usr/local/bin/vmbackup-worker")
    debian.root("rm /etc/cron.d/vmbackup")
    follow(debian, told("Update", **{"--schedule cron": "--schedule cron --every 1m"}))
    debian.alice("vmbackup-admin statedb upgrade; VBoxManage modifyvm web01 --memory 32")
    debian.wait_for(f"ls /mnt/nas/web01 | grep 'ova$' | grep -v {old}", _TICK_SECONDS)


WAYS: Final[Mapping[str, tuple[Callable[[FreshDebian], None], Callable[[FreshDebian], None]]]] = {
    "clone": (by_command, removed_by_command),
    "wheel": (by_wheel, removed_by_hand),
    "single file": (by_single_file, removed_by_hand),
    "update": (by_update, removed_by_command),
}
ALL: Final = [f"{way} on {suite}" for way in WAYS for suite in SUITES]


@pytest.fixture
def debian(which: str, tmp_path: Path) -> Iterator[FreshDebian]:
    way, _, suite = which.partition(" on ")
    if reason := obstacle():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    tree = clone(tmp_path / "clone")
    if way == "update":
        clone(tree / "old", FIRST)
    with FreshDebian(suite, tree) as made:
        yield made


@pytest.mark.timeout(900)
@pytest.mark.parametrize("which", drawn(ALL))
def test_what_was_installed_makes_copies_and_goes_without_a_trace(
    debian: FreshDebian, which: str
) -> None:
    print(TOLD)
    come, leave = WAYS[which.partition(" on ")[0]]
    before = debian.files()
    come(debian)
    debian.wait_for("ls /mnt/nas/web01/*.ova 2>/dev/null", _TICK_SECONDS)
    debian.wait_for("vmbackup-admin status | grep CLEAN", 60)
    assert "OK" in debian.alice("vmbackup-admin check")
    if leave is removed_by_command:
        look_at_the_units(debian)
    leave(debian)
    stays = ("/etc/vmbackup", "/home/alice/.local", "/home/alice/virtualbox", "/home/alice/.cache")
    written_by_others = ("/var/log", "/var/lib/systemd", "/root/.cache", "/var/spool/cron", "/old")
    after = debian.files()
    assert {
        path: (before.get(path), after.get(path))
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path) and not path.startswith((*stays, *written_by_others))
    } == {}
    assert debian.alice("ls /mnt/nas/web01/*.ova")


def look_at_the_units(debian: FreshDebian) -> None:
    """In place of the entry of cron: systemd has nothing to say against them."""
    debian.root("rm /etc/cron.d/vmbackup")
    said = debian.root(f"{CLONE}/deploy/install --owner alice --schedule systemd")
    assert "left to do, where systemctl runs: systemctl daemon-reload" in said
    units = "vmbackup@backup.service vmbackup@backup.timer"
    told = debian.root(f"cd /etc/systemd/system; systemd-analyze verify {units}")
    assert "vmbackup" not in told, told  # of Debian's own units it may tell
    said = debian.root("systemd-analyze security --offline=true vmbackup@backup.service")
    assert "Overall exposure level" in said
    assert "Service runs under a static non-root user identity" in said
